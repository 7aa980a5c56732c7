"""Specification of the log-probability of what `pixelcnn_draw.draw` draws, in nats.

Shapes: B batch, C channels, P parameters of a pixel; ``...`` are the pixels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..plan import Emit
from .pixelcnn_draw import LogisticMixture


def log_prob(params: Tensor, x: Tensor, emit: Emit, temperature: float = 1.0, of: Tensor | None = None) -> Tensor:
    """``log p(x | params)`` of each pixel, ``[B, ...]``, of `params` ``[B, P, ...]`` and `x` ``[B, C, ...]``.

    p is what `draw` draws from at this `temperature`: logits are divided by it, scales multiplied.

    Args:
        of: boolean ``[B, C, ...]``, the channels that count, each given those before it; None: all.
    """
    if emit.kind == "logistic_mixture":
        return of_mixture(params, x, emit, temperature, of)
    if emit.kind == "affine":
        shift, log_scale = params.chunk(2, dim=1)
        by_channel = of_normal(shift, log_scale + math.log(temperature), x)
    elif emit.kind == "categorical":
        logits = params.unflatten(1, (-1, emit.levels)) / temperature
        index = (x * (emit.levels - 1)).round().long()
        by_channel = logits.log_softmax(2).gather(2, index.unsqueeze(2)).squeeze(2)
    elif emit.kind == "continuous_bernoulli":
        by_channel = of_continuous_bernoulli(params / temperature, x)
    else:
        logits = params / temperature
        by_channel = x * F.logsigmoid(logits) + (1 - x) * F.logsigmoid(-logits)
    return (by_channel if of is None else by_channel.where(of, 0)).sum(1)


def of_normal(mean: Tensor, log_scale: Tensor, x: Tensor) -> Tensor:
    """``log N(x; mean, exp(log_scale)^2)``, each number by itself."""
    return -0.5 * ((x - mean) * torch.exp(-log_scale)) ** 2 - log_scale - 0.5 * math.log(2 * math.pi)


def of_continuous_bernoulli(logits: Tensor, x: Tensor) -> Tensor:
    """``eta (x - 1/2) - log(sinh(eta / 2) / (eta / 2))``, eta the logits, each number by itself."""
    return logits * (x - 0.5) - _log_sinhc(logits / 2)


def _log_sinhc(h: Tensor) -> Tensor:
    """``log(sinh(h) / h)``, and its slope, without the digits that a difference would lose near 0."""
    near = h.abs() < 0.25
    square, far = torch.where(near, h, 0) ** 2, torch.where(near, 1, h).abs()
    coefficients = (1 / 6, -1 / 180, 1 / 2835, -1 / 37800, 1 / 467775)
    series = torch.zeros_like(h)
    for coefficient in reversed(coefficients):
        series = square * (coefficient + series)
    return torch.where(near, series, far + torch.log(-torch.expm1(-2 * far)) - torch.log(2 * far))


def of_mixture(params: Tensor, x: Tensor, emit: Emit, temperature: float = 1.0, of: Tensor | None = None) -> Tensor:
    """The log-probability of a mixture of logistics: ``log sum_k pi_k prod_c p_k(x_c | x_<c)``, ``[B, ...]``.

    p_k is the mass of a level; without levels a density between 0 and 1, and at both ends the mass beyond. The product
    is over the channels `of`, None: all.
    """
    mixture = LogisticMixture(params.unflatten(1, (-1, emit.components)), x.shape[1])
    total = (mixture.logits / temperature).log_softmax(1)
    for c in range(x.shape[1]):
        mean, log_scale = mixture.channel(c, [x[:, other] for other in range(c)])
        of_own = _log_mass if emit.levels else _log_cut
        mass = of_own(x[:, c, None], mean, log_scale + math.log(temperature), emit.levels)
        total = total + (mass if of is None else mass.where(of[:, c, None], 0))
    return total.logsumexp(1)


def _log_mass(x: Tensor, mean: Tensor, log_scale: Tensor, levels: int) -> Tensor:
    """``log(sigmoid(b) - sigmoid(a))`` between the edges a < b of the level of x, exact in the tails of the logistic.

    With w = b - a: ``sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(-w))``. The ends take what lies beyond.
    """
    centred, k = 2 * x - 1 - mean, (x * (levels - 1)).round().long()
    inverse, half = torch.exp(-log_scale), 1 / (levels - 1)
    below = F.logsigmoid((centred + half) * inverse)  # log of the mass below the upper edge
    above = F.logsigmoid(-(centred - half) * inverse)
    inside = below + above + torch.log(-torch.expm1(-2 * half * inverse))
    return torch.where(k == 0, below, torch.where(k == levels - 1, above, inside))


def _log_cut(x: Tensor, mean: Tensor, log_scale: Tensor, levels: int) -> Tensor:
    """The logarithm of the density of x between 0 and 1, and at both ends of the mass beyond; levels: 0."""
    scaled = (2 * x - 1 - mean) * torch.exp(-log_scale)
    below, above = F.logsigmoid(scaled), F.logsigmoid(-scaled)
    inside = below + above - log_scale + math.log(2)  # x is half of what the logistic is of
    return torch.where(x <= 0, below, torch.where(x >= 1, above, inside))
