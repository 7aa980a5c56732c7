"""Drawing the pixels of a part from their parameters, in float64.

Shapes: N pixels, B samples, P parameters, n planes of noise, C channels, K components of a mixture. Formulas are those
of `vlae_fast.reference.pixelcnn_draw.draw`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ...plan import Emit


class Known(NamedTuple):
    """Channels ``[N, B, C]`` of pixels that are given."""

    mask: Tensor
    values: Tensor


def draw(params: Tensor, noise: Tensor, emit: Emit, temperature: float, known: Known | None) -> Tensor:
    """Pixels ``[N, B, C]`` from ``[N, B, P]`` and noise ``[N, B, n]`` in float64, on the device of the noise."""
    p = params.to(noise)
    given = None if known is None else Known(known.mask.to(noise.device), known.values.to(noise))
    if emit.kind == "logistic_mixture":
        return _mixture(p, noise, emit, temperature, params.dtype, given)
    x = _DRAWS[emit.kind](p, noise, emit, temperature)
    return x if given is None else torch.where(given.mask, given.values, x)


def _bernoulli(p: Tensor, noise: Tensor, emit: Emit, temperature: float) -> Tensor:
    return (noise < (p / temperature).sigmoid_()).to(noise)


def _categorical(p: Tensor, noise: Tensor, emit: Emit, temperature: float) -> Tensor:
    logits = p.unflatten(2, (-1, emit.levels)) / temperature
    return _first_above(logits, noise).to(noise) / (emit.levels - 1)


def _affine(p: Tensor, noise: Tensor, emit: Emit, temperature: float) -> Tensor:
    shift, log_scale = p.chunk(2, 2)
    return shift + temperature * log_scale.exp() * noise


_DRAWS: dict[str, Callable[[Tensor, Tensor, Emit, float], Tensor]] = {
    "bernoulli": _bernoulli,
    "categorical": _categorical,
    "affine": _affine,
}


def _first_above(logits: Tensor, noise: Tensor) -> Tensor:
    """The first k at which the softmax of the last dimension, summed over 0..k, exceeds the noise."""
    sums = (logits - logits.amax(-1, keepdim=True)).exp_().cumsum(-1)
    return (sums[..., :-1] <= noise[..., None] * sums[..., -1:]).sum(-1)


def _mixture(
    p: Tensor, noise: Tensor, emit: Emit, temperature: float, dtype: torch.dtype, known: Known | None
) -> Tensor:
    """Channel after channel of one component; each is rounded to the images' dtype before the next is drawn.

    In order P is: logits, means of the C channels, log scales, coefficients of channel c on those before it; K each.
    """
    channels = noise.shape[2] - 1
    p = p.unflatten(2, (-1, emit.components))
    index = _first_above(p[:, :, 0] / temperature, noise[:, :, 0])[:, :, None, None]
    own = p[:, :, 1:].gather(3, index.expand(-1, -1, p.shape[2] - 1, 1)).squeeze(3)  # of the component
    means, log_scales, coefficients = own.split([channels, channels, own.shape[2] - 2 * channels], 2)
    scales = temperature * log_scales.clamp(-7, 7).exp()
    drawn: list[Tensor] = []
    for c in range(channels):
        mean, first = means[:, :, c], c * (c - 1) // 2
        for other, x in enumerate(drawn):
            mean = mean + coefficients[:, :, first + other].tanh() * (2 * x - 1)
        x = _pixel_of(mean + scales[:, :, c] * noise[:, :, c + 1].logit(), emit.levels)
        x = x if known is None else torch.where(known.mask[:, :, c], known.values[:, :, c], x)
        drawn.append(x.to(dtype).to(noise))
    return torch.stack(drawn, 2)


def _pixel_of(value: Tensor, levels: int) -> Tensor:
    """The pixel in [0, 1] of a value of [-1, 1] and beyond: the nearest of so many levels, any where there are 0."""
    share = (value + 1) / 2
    return ((share * (levels - 1) + 0.5).floor() / (levels - 1) if levels else share).clamp_(0, 1)
