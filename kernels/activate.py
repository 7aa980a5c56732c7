"""Activations on a block of float32 in registers, shared by all families."""

import triton
import triton.language as tl


@triton.jit
def tanh(x):
    z = x * x  # an odd polynomial around 0, where the quotient would cancel
    p = -5.70498872745e-3 * z + 2.06390887954e-2
    p = p * z - 5.37397155531e-2
    p = p * z + 1.33314422036e-1
    p = p * z - 3.33332819422e-1
    e = tl.exp(-2.0 * tl.abs(x))  # never overflows
    t = (1.0 - e) / (1.0 + e)
    return tl.where(tl.abs(x) < 0.625, p * z * x + x, tl.where(x < 0, -t, t))


@triton.jit
def expm1(x):
    """e^x - 1 for x <= 0, by its Taylor series where the difference would cancel."""
    p = x * (1.0 / 40320) + 1.0 / 5040
    p = p * x + 1.0 / 720
    p = p * x + 1.0 / 120
    p = p * x + 1.0 / 24
    p = p * x + 1.0 / 6
    p = p * x + 0.5
    return tl.where(x > -0.5, p * x * x + x, tl.exp(x) - 1.0)


@triton.jit
def activate(x, ACTIVATION: tl.constexpr):
    """none, relu, elu (alpha 1), tanh; the gate has two blocks: `gate`. A NaN stays one."""
    if ACTIVATION == "relu":
        x = tl.where(x < 0, 0.0, x)
    elif ACTIVATION == "elu":
        x = tl.where(x > 0, x, expm1(tl.where(x > 0, 0.0, x)))
    elif ACTIVATION == "tanh":
        x = tanh(x)
    return x
