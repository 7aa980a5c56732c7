"""Levels of pixels as binary decisions, digit after digit from the highest, with the probability of each.

Arrays have the pixels last: parameters ``[P, N]``, levels ``[C, N]``, decisions ``[decisions, N]``. Those of the first
channel come first: a channel is coded given those before it where the likelihood says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from ..plan import Emit
from .numbers import Floats, decision, exp, of_logits, sigmoid, tanh
from .stack import Stack, Symbols

Params = NDArray[np.float32]
Mass = Callable[[NDArray[np.int64], NDArray[np.int64]], Floats]  # of the levels from the first up to below the second
_WEIGHT = 1 << 20  # of the likeliest level of a softmax
_NONE = 1e-300  # a mass that is none


def decisions(emit: Emit, params: Params, levels: Symbols) -> tuple[Symbols, Floats]:
    """All decisions of known levels ``[C, N]``: bits and probabilities of a 1, ``[decisions, N]`` each."""
    if emit.kind == "bernoulli":
        return levels, of_logits(params)
    found = [(_digit(levels[c], s), p) for c, s, p in _each(emit, params, levels)]
    return np.stack([bits for bits, _ in found]), np.stack([p for _, p in found])


def pop(stack: Stack, emit: Emit, params: Params, channels: int) -> Symbols:
    """The levels ``[C, N]`` whose decisions are on the stack. What is damaged may give levels that there are not."""
    levels = np.zeros((channels, params.shape[1]), np.int32)
    if emit.kind == "bernoulli":
        return stack.pop_bits(of_logits(params).reshape(-1)).reshape(levels.shape)
    for c, s, p in _each(emit, params, levels):
        levels[c] |= stack.pop_bits(p) << s
    return levels


def _each(emit: Emit, params: Params, levels: Symbols) -> Iterator[tuple[int, int, Floats]]:
    """(channel, digit, probability that it is 1) of each decision, given the digits above it, which `levels` has."""
    digits = (emit.levels - 1).bit_length()
    mixture = Mixture(params, emit, len(levels)) if emit.kind == "logistic_mixture" else None
    for c in range(len(levels)):
        if mixture is None:
            mass = of_softmax(params[c * emit.levels : (c + 1) * emit.levels])
        else:
            mass = mixture.mass_of(c, levels)
        for s in reversed(range(digits)):
            low = levels[c].astype(np.int64) >> (s + 1) << (s + 1)
            middle = np.minimum(low + (1 << s), emit.levels)
            high = np.minimum(low + (2 << s), emit.levels)
            low = np.minimum(low, emit.levels)
            of_0, of_1 = mass(low, middle), mass(middle, high)
            yield c, s, decision(of_1 / np.maximum(of_0 + of_1, _NONE))


def _digit(levels: Symbols, s: int) -> Symbols:
    return levels >> s & 1


def of_softmax(logits: Params) -> Mass:
    """Masses of levels of weight ``e^(logit - greatest)``, as whole numbers, whose sums are exact in any order."""
    wide = logits.astype(np.float64)
    weights = np.rint(exp(wide - wide.max(0)) * _WEIGHT).astype(np.int64) + 1
    sums = np.zeros((len(weights) + 1, weights.shape[1]), np.int64)
    np.cumsum(weights, axis=0, out=sums[1:])

    def mass(low: NDArray[np.int64], high: NDArray[np.int64]) -> Floats:
        at = np.take_along_axis(sums, np.stack([low, high]), 0)
        return (at[1] - at[0]).astype(np.float64)

    return mass


class Mixture:
    """Masses of levels by a mixture of logistics, a channel given those before it; the formula is `pixelcnn_draw`'s."""

    def __init__(self, params: Params, emit: Emit, channels: int) -> None:
        wide = params.astype(np.float64).reshape(-1, emit.components, params.shape[1])  # [1 + 2 C + ..., K, N]
        self.levels, self.channels = emit.levels, channels
        self.weights = exp(wide[0] - wide[0].max(0))
        self.means = wide[1 : 1 + channels]
        self.slopes = exp(-np.clip(wide[1 + channels : 1 + 2 * channels], -7.0, 7.0))
        self.coefficients = tanh(wide[1 + 2 * channels :])

    def mass_of(self, c: int, levels: Symbols) -> Mass:
        """Masses of channel c, of components weighed by the levels of the channels before."""
        weights = self.weights
        for before in range(c):
            edges = levels[before].astype(np.int64)
            weights = weights * self._of_components(before, levels, edges, edges + 1)
            total = weights.max(0)
            weights = np.where(total > _NONE, weights / np.maximum(total, _NONE), self.weights)

        def mass(low: NDArray[np.int64], high: NDArray[np.int64]) -> Floats:
            found = weights * self._of_components(c, levels, low, high)
            total = found[0]
            for component in found[1:]:  # in one order on every machine
                total = total + component
            return total

        return mass

    def _of_components(self, c: int, levels: Symbols, low: NDArray[np.int64], high: NDArray[np.int64]) -> Floats:
        """``sigmoid(b) - sigmoid(a)`` of the edges of each component, ``[K, N]``, precise in both tails."""
        mean, step = self.means[c], 2.0 / (self.levels - 1)
        for other in range(c):
            value = levels[other] * step - 1.0
            mean = mean + self.coefficients[c * (c - 1) // 2 + other] * value
        a = ((low - 0.5) * step - 1.0 - mean) * self.slopes[c]
        b = ((high - 0.5) * step - 1.0 - mean) * self.slopes[c]
        a = np.where(low <= 0, -np.inf, np.where(low >= self.levels, np.inf, a))  # the last level ends nowhere
        b = np.where(high >= self.levels, np.inf, b)
        right = a > 0  # both edges above the middle: what is beyond them is small
        a, b = np.where(right, -b, a), np.where(right, -a, b)
        return np.maximum(sigmoid(b) - sigmoid(a), 0.0)
