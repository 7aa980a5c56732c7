"""Activations on a block of float32 in registers, shared by all families."""

import triton
import triton.language as tl


@triton.jit
def tanh(x):
    e = tl.exp(-2.0 * tl.abs(x))  # never overflows
    t = (1.0 - e) / (1.0 + e)
    return tl.where(x < 0, -t, t)


@triton.jit
def activate(x, ACTIVATION: tl.constexpr):
    """none, relu, elu (alpha 1), tanh; the gate has two blocks: `gate`. A NaN stays one."""
    if ACTIVATION == "relu":
        x = tl.where(x < 0, 0.0, x)
    elif ACTIVATION == "elu":
        x = tl.where(x > 0, x, tl.exp(tl.where(x > 0, 0.0, x)) - 1.0)
    elif ACTIVATION == "tanh":
        x = tanh(x)
    return x
