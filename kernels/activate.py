"""Activations on a block of float32 in registers, shared by all families."""

import triton
import triton.language as tl


@triton.jit
def tanh(b_x):
    b_z = b_x * b_x  # an odd polynomial around 0, where the quotient would cancel
    b_p = -5.70498872745e-3 * b_z + 2.06390887954e-2
    b_p = b_p * b_z - 5.37397155531e-2
    b_p = b_p * b_z + 1.33314422036e-1
    b_p = b_p * b_z - 3.33332819422e-1
    b_e = tl.exp(-2.0 * tl.abs(b_x))  # never overflows
    b_t = (1.0 - b_e) / (1.0 + b_e)
    return tl.where(tl.abs(b_x) < 0.625, b_p * b_z * b_x + b_x, tl.where(b_x < 0, -b_t, b_t))


@triton.jit
def expm1(b_x):
    """e^x - 1 for x <= 0, by its Taylor series where the difference would cancel."""
    b_p = b_x * (1.0 / 40320) + 1.0 / 5040
    b_p = b_p * b_x + 1.0 / 720
    b_p = b_p * b_x + 1.0 / 120
    b_p = b_p * b_x + 1.0 / 24
    b_p = b_p * b_x + 1.0 / 6
    b_p = b_p * b_x + 0.5
    return tl.where(b_x > -0.5, b_p * b_x * b_x + b_x, tl.exp(b_x) - 1.0)


@triton.jit
def activate(b_x, ACTIVATION: tl.constexpr):
    """none, relu, elu (alpha 1) or tanh; another name does not compile. A NaN stays a NaN.

    The gate has two blocks: a kernel that has them multiplies `tanh` of one by `tl.sigmoid` of the other.
    """
    if ACTIVATION == "relu":
        b_x = tl.where(b_x < 0, 0.0, b_x)
    elif ACTIVATION == "elu":
        b_x = tl.where(b_x > 0, b_x, expm1(tl.where(b_x > 0, 0.0, b_x)))
    elif ACTIVATION == "tanh":
        b_x = tanh(b_x)
    else:
        tl.static_assert(ACTIVATION == "none", "activate: ACTIVATION must be none, relu, elu or tanh")
    return b_x
