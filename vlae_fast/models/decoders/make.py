"""Decoders by name."""

from __future__ import annotations

import inspect
from typing import Any

from .. import options as declaration
from ..likelihood_base import Likelihood
from .base import Decoder
from .kinds import KINDS

_WHY_NOT = {  # a decoder has an option, where that is not plain
    ("decoder_norm", "batch"): ": the mean over a batch of images would tell a pixel about the pixels after it",
    ("decoder_norm", "weight"): ": of the autoregressive decoders, resnet and pixelcnn++ have weight normalisation",
}
_LACKING = {"z_channels": 0}  # what a decoder that lacks the option does


def make_decoder(
    kind: str,
    *,
    input_dim: int,
    latent_dim: int,
    hidden_dim: int,
    n_layers: int,
    image_size: tuple[int, int],
    likelihood: Likelihood | None = None,
    backend: str = "auto",
    **options: Any,
) -> Decoder:
    """Makes the decoder of a kind, a name in ``KINDS``; those that do not look at x are mlp and deconv.

    Args:
        options: those of ``part="decoder"`` in `Options`; see the class of a kind. An option at its default in
            `Options` is left to the class.

    Raises:
        ValueError: the kind or an option is unknown, or a kind is given an option that it does not have, other than
            z_channels = 0.

    >>> make_decoder("mlp", input_dim=1, latent_dim=2, hidden_dim=8, n_layers=1, image_size=(2, 2)).likelihood.params
    1
    """
    if kind not in KINDS:
        raise ValueError(f"make_decoder: kind must be one of {', '.join(KINDS)}, got {kind!r}")
    known = {name: option for name, option in declaration.known().items() if option.part == "decoder"}
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(f"make_decoder: options must be among {', '.join(known)}, got {', '.join(unknown)}")
    has = inspect.signature(KINDS[kind]).parameters
    said = {name: value for name, value in options.items() if value != known[name].default}
    for name in [name for name in said if name not in has]:
        if (value := said.pop(name)) != _LACKING.get(name):
            why = _WHY_NOT.get((name, value), "")
            raise ValueError(f"make_decoder: a {kind!r} decoder has no option {name}, got {value!r}{why}")
    if "backend" in has:
        said["backend"] = backend
    return KINDS[kind](
        input_dim, latent_dim, hidden_dim, n_layers, image_size=image_size, likelihood=likelihood, **said
    )
