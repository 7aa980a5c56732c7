"""Activations on a block of float32 in registers and their slopes, shared by all families."""

import triton
import triton.language as tl

ACTIVATIONS = ("none", "relu", "elu", "gate")  # of a stage; an index is the code in the table of stages
NAMES, CODES, GATE = map(tl.constexpr, (ACTIVATIONS, len(ACTIVATIONS), ACTIVATIONS.index("gate")))


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
    """The activation of a name, with alpha 1 for elu; another name does not compile. A NaN stays a NaN.

    The gate has two blocks: a kernel that has them multiplies `tanh` of one by `tl.sigmoid` of the other.
    """
    if ACTIVATION == "relu":
        b_x = tl.where(b_x < 0, 0.0, b_x)
    elif ACTIVATION == "elu":
        b_x = tl.where(b_x > 0, b_x, expm1(tl.where(b_x > 0, 0.0, b_x)))
    elif ACTIVATION == "tanh":
        b_x = tanh(b_x)
    else:
        tl.static_assert(ACTIVATION == "none", "activate: ACTIVATION must be that of one block")
    return b_x


@triton.jit
def activate_by_code(b_x, code):
    """`activate` where the activation is known at run time alone: an index of ACTIVATIONS, not the gate's."""
    for CODE in tl.static_range(CODES):
        if CODE != GATE:
            if code == CODE:
                b_x = activate(b_x, NAMES[CODE])
    return b_x


@triton.jit
def times_slope(b_grad, b_out, ACTIVATION: tl.constexpr):
    """The gradient before the activation; its output ``b_out`` gives the slope. A NaN stays one."""
    if ACTIVATION == "relu":
        b_grad = tl.where(b_out > 0, b_grad, b_grad * 0.0)
    elif ACTIVATION == "elu":
        b_grad = tl.where(b_out > 0, b_grad, b_grad * (b_out + 1.0))
    elif ACTIVATION == "tanh":
        b_grad = b_grad * (1.0 - b_out * b_out)
    else:
        tl.static_assert(ACTIVATION == "none", "times_slope: ACTIVATION must be that of one block")
    return b_grad
