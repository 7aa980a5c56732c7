"""Probabilities that have the same bits on every machine: float64 additions, products and quotients alone, one by one.

IEEE 754 rounds these, and ``rint``, in one way. Exponentials of libraries differ in their last bits; a coder whose two
sides differ in one bit of one probability decodes noise.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ONE = 1 << 24  # the coder's probabilities are multiples of 1 / ONE
LEAST = 4 / ONE  # of a binary decision; what is rarer costs at most 22 bits
LOGIT_STEP = 64  # logits are rounded to 1 / 64: the loss is below 2e-5 nats a pixel
MOST_LOGIT = 16  # beyond, a decision is as sure as LEAST allows
_LOG2_E, _LN2_HIGH, _LN2_LOW = 1.4426950408889634, 0.693147180369123816490, 1.90821492927058770002e-10
_SERIES = (  # of the exponential: 1 / k!
    *(1.0, 1.0, 0.5, 1 / 6, 1 / 24, 1 / 120, 1 / 720, 1 / 5040, 1 / 40320, 1 / 362880, 1 / 3628800, 1 / 39916800),
    1 / 479001600,
)


def exp(x: Floats) -> Floats:
    """``e^x``, of x cut to [-700, 700], to about two roundings."""
    x = np.clip(x, -700.0, 700.0)
    k = np.rint(x * _LOG2_E)
    r = (x - k * _LN2_HIGH) - k * _LN2_LOW  # the product is exact: the first constant ends in zeros
    out = np.full_like(r, _SERIES[-1])
    for coefficient in reversed(_SERIES[:-1]):
        out = out * r
        out = out + coefficient
    return np.ldexp(out, k.astype(np.int32))


def sigmoid(x: Floats) -> Floats:
    """``1 / (1 + e^-x)``, precise where it is small."""
    e = exp(-np.abs(x))
    return np.where(x >= 0, 1.0, e) / (1.0 + e)


def tanh(x: Floats) -> Floats:
    e = exp(-2.0 * np.abs(x))
    return np.copysign((1.0 - e) / (1.0 + e), x)


def decision(p: Floats) -> Floats:
    """Probabilities of a 1 as the coder has them: multiples of 1 / ONE, neither 0 nor 1."""
    return np.rint(np.clip(p, LEAST, 1.0 - LEAST) * ONE) / ONE


def _of_logits() -> Floats:
    return decision(sigmoid(np.arange(-MOST_LOGIT * LOGIT_STEP, MOST_LOGIT * LOGIT_STEP + 1) / LOGIT_STEP))


_TABLE = _of_logits()


def of_logits(logits: NDArray[np.float32]) -> Floats:
    """`decision` of ``sigmoid(logits)``, of logits rounded to 1 / LOGIT_STEP."""
    most = MOST_LOGIT * LOGIT_STEP
    at = np.rint(np.clip(logits * LOGIT_STEP, -most, most)).astype(np.int32)
    return _TABLE[at + most]
