"""Activations on a block of float32 in registers and their slopes, shared by all families."""

import triton
import triton.language as tl

from .dot import INTERPRETED

# The activations of a stage; an index is the code in the table of stages.
ACTIVATIONS = (
    "none",
    "relu",
    "elu",
    "gate",
    "tanh",
    "sigmoid",
    "softplus",
    "silu",
    "gelu",
    "gelu_tanh",
    "glu",
)
PAIRS = ("gate", "glu")  # of two columns for each channel
NAMES, CODES = tl.constexpr(ACTIVATIONS), tl.constexpr(len(ACTIVATIONS))
GATE, GLU = (tl.constexpr(ACTIVATIONS.index(name)) for name in PAIRS)
GLU_BIT = tl.constexpr(1 << ACTIVATIONS.index("glu"))


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
def tanh_of_16_bits(b_x):
    """tanh for results of 16 bits, in one instruction: within 2^-11 of the value, as much as float16 rounds."""
    if INTERPRETED:  # rounded to 11 bits: as far off as the instruction may be
        b_bits = tanh(b_x).to(tl.int32, bitcast=True)
        return ((b_bits + 0x1000) & ~0x1FFF).to(tl.float32, bitcast=True)
    return tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [b_x], tl.float32, is_pure=True, pack=1)


@triton.jit
def sigmoid_of_16_bits(b_x):
    """The sigmoid for results of 16 bits: the quotient by an approximate reciprocal, within 2^-22 of the value."""
    b_e = 1.0 + tl.exp(-b_x)
    if INTERPRETED:
        return 1.0 / b_e
    return tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [b_e], tl.float32, is_pure=True, pack=1)


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
def softplus(b_x):
    """log(1 + e^x) = max(x, 0) + 2 artanh(e / (2 + e)) with e = e^-|x|."""
    b_e = tl.exp(-tl.abs(b_x))
    b_s = b_e / (2.0 + b_e)
    b_z = b_s * b_s
    b_p = 0.1220661169 * b_z + 0.1069660605
    b_p = b_p * b_z + 0.143103627
    b_p = b_p * b_z + 0.199993454
    b_p = b_p * b_z + 0.3333333965
    b_p = b_p * b_z + 1.0
    return 2.0 * b_s * b_p + tl.where(b_x < 0, 0.0, b_x)


@triton.jit
def gelu(b_x):
    """x Phi(x), with Phi(-a) = e^(-a^2 / 2) p(q) / (a + 4), q = (a - 4) / (a + 4), for a = abs(x): csrc/cpu/vec.h."""
    b_a = tl.abs(b_x)
    b_head = (b_a.to(tl.int32, bitcast=True) & ~0xFFF).to(tl.float32, bitcast=True)
    b_square = tl.exp(b_head * b_head * -0.5) * tl.exp((b_a - b_head) * (b_a + b_head) * -0.5)
    b_t = 1.0 / (b_a + 4.0)
    b_q = (b_a - 4.0) * b_t
    b_p = -1.341942504e-4 * b_q + 1.746608708e-4
    b_p = b_p * b_q + 1.568405658e-3
    b_p = b_p * b_q - 3.510212713e-3
    b_p = b_p * b_q - 7.524003293e-3
    b_p = b_p * b_q + 6.040349001e-2
    b_p = b_p * b_q - 0.1865236565
    b_p = b_p * b_q + 0.3871369165
    b_p = b_p * b_q - 0.6078965799
    b_p = b_p * b_q + 0.7552851353
    b_tail = tl.where(b_a < 14.5, b_square * b_p * b_t * b_a, 0.0)  # behind, no normal number
    return tl.where(b_x < 0, 0.0, b_x) - b_tail


@triton.jit
def activate(b_x, ACTIVATION: tl.constexpr):
    """The activation of a name, with alpha 1 for elu; another name does not compile. A NaN stays a NaN.

    Gate and glu have two blocks: a kernel that has them multiplies one, or its `tanh`, by `tl.sigmoid` of the other.
    """
    if ACTIVATION == "relu":
        b_x = tl.where(b_x < 0, 0.0, b_x)
    elif ACTIVATION == "elu":
        b_x = tl.where(b_x > 0, b_x, expm1(tl.where(b_x > 0, 0.0, b_x)))
    elif ACTIVATION == "tanh":
        b_x = tanh(b_x)
    elif ACTIVATION == "sigmoid":
        b_x = tl.sigmoid(b_x)
    elif ACTIVATION == "softplus":
        b_x = softplus(b_x)
    elif ACTIVATION == "silu":
        b_x = b_x * tl.sigmoid(b_x)
    elif ACTIVATION == "gelu":
        b_x = gelu(b_x)
    elif ACTIVATION == "gelu_tanh":
        b_x = b_x * tl.sigmoid(b_x * (0.0713548163 * b_x * b_x + 1.5957691216))
    else:
        tl.static_assert(ACTIVATION == "none", "activate: ACTIVATION must be that of one block")
    return b_x


@triton.jit
def _activate_code(b_x, CODE: tl.constexpr):
    NAME: tl.constexpr = NAMES[CODE]  # Triton 3.6 takes no string that is computed in a call
    return activate(b_x, NAME)


@triton.jit
def activate_by_code(b_x, code, CODES_USED: tl.constexpr):
    """`activate` where the activation is known at run time alone: an index of ACTIVATIONS, none of PAIRS.

    CODES_USED has bit c set where code c can occur: a kernel has no formulas that its plan does not need.
    """
    for CODE in tl.static_range(CODES):
        if (CODES_USED >> CODE) % 2 == 1 and CODE != GATE and CODE != GLU:
            if code == CODE:
                b_x = _activate_code(b_x, CODE)
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
