"""Decoders by name."""

from __future__ import annotations

import inspect
from typing import Any

from ..likelihood import Likelihood
from . import Decoder, DeconvDecoder, MLPDecoder, PixelCNNDecoder, PixelCNNPPDecoder, ResNetDecoder, TwoStackDecoder

KINDS: dict[str, type[Decoder]] = {
    "gated": PixelCNNDecoder,
    "two-stack": TwoStackDecoder,
    "resnet": ResNetDecoder,
    "pixelcnn++": PixelCNNPPDecoder,
    "mlp": MLPDecoder,
    "deconv": DeconvDecoder,
}

# Options that not every kind has, at the value that says nothing: there a kind takes its own default.
OPTIONS: dict[str, Any] = {
    "kernel_size": 3,
    "initial_kernel": 7,
    "receptive_field": None,
    "z_channels": 0,
    "residual": False,
    "tied": False,
    "n_pointwise": 4,
}


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
    """The decoder of a kind: gated, two-stack, resnet, pixelcnn++, or one that does not look at x: mlp, deconv.

    Args:
        options: kernel_size = 3, initial_kernel = 7, receptive_field = None, z_channels = 0, residual = False,
            tied = False, n_pointwise = 4; see the class of a kind. At these values an option is left to the class.

    Raises:
        ValueError: the kind or an option is unknown, or a kind that has no such option is given another value of it.

    >>> make_decoder("mlp", input_dim=1, latent_dim=2, hidden_dim=8, n_layers=1, image_size=(2, 2)).likelihood.params
    1
    """
    if kind not in KINDS:
        raise ValueError(f"make_decoder: kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if unknown := sorted(set(options) - set(OPTIONS)):
        raise ValueError(f"make_decoder: options must be among {', '.join(OPTIONS)}, got {', '.join(unknown)}")
    has = inspect.signature(KINDS[kind]).parameters
    said = {name: value for name, value in options.items() if value != OPTIONS[name]}
    for name, value in said.items():
        if name not in has:
            raise ValueError(f"make_decoder: a {kind!r} decoder has no option {name}, got {value!r}")
    if "backend" in has:
        said["backend"] = backend
    return KINDS[kind](
        input_dim, latent_dim, hidden_dim, n_layers, image_size=image_size, likelihood=likelihood, **said
    )
