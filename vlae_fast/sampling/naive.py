"""The specification of sampling: one full forward pass of the decoder per pixel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import reference
from ..arguments import check_tensor
from ..ops.pixelcnn_sample import check_noise
from .emit import Known, Samples, emit_of, emit_params, expand_known
from .known import warn_unless_fits
from .program import Decoder


def naive_sample(
    decoder: Decoder, z: Tensor | None, noise: Tensor, known: Known | None = None, temperature: float = 1.0
) -> Tensor:
    """The specification of sampling: one full forward pass of the decoder per pixel.

    Arguments as in `PixelCNNSampler.sample`: a pixel fits the known pixels before it, and takes no account of those
    after it. The taps of a decoder are not known here, so the warning is by raster order alone.
    """
    drawn = _naive_samples(decoder, z, noise, known, temperature)
    warn_unless_fits("naive_sample", known, drawn.images.shape, emit_of(decoder), **_window(decoder))
    return drawn.images


def naive_sample_with_logits(
    decoder: Decoder, z: Tensor | None, noise: Tensor, known: Known | None = None, temperature: float = 1.0
) -> Samples:
    """As `naive_sample`, with the logits."""
    drawn = _naive_samples(decoder, z, noise, known, temperature)
    warn_unless_fits("naive_sample", known, drawn.images.shape, emit_of(decoder), **_window(decoder))
    return drawn


def _window(decoder: Decoder) -> dict[str, Any]:
    """Arguments of `warn_unless_fits` for a decoder without a program: it sees no pixel, or all that may be before."""
    sees = bool(getattr(decoder, "autoregressive", True))
    return {"seen": None if sees else tuple, "in_turn": sees}


@torch.no_grad()
def _naive_samples(
    decoder: Decoder, z: Tensor | None, noise: Tensor, known: Known | None, temperature: float
) -> Samples:
    if not hasattr(decoder, "input_dim"):
        rule = "decoder must have input_dim; for others there is vlae_fast.fast_sampler, whose sampler has a .decoder"
        raise ValueError(f"naive_sample: {rule}, got {type(decoder).__name__}")
    check_tensor("naive_sample", "noise", noise)
    emit, channels = emit_of(decoder), decoder.input_dim
    check_noise("naive_sample", noise, channels, emit, temperature)
    mask, values = expand_known("naive_sample", known, noise, channels, emit)
    drawn = reference.naive_sample(
        lambda image: emit_params(decoder, decoder(image, z)), noise, channels, emit, mask, values, temperature
    )
    return Samples(*drawn)
