"""The three kernels by which `masked_conv_backward` computes the gradients of a masked convolution."""

from __future__ import annotations

import triton
import triton.language as tl

from .masked_conv import conv_block
from .masked_conv_weight import unpack_block, weight_block
from .parts import add_block
from .slope import slope_block
from .taps import pack_block


@triton.jit
def masked_conv_slope_kernel(
    p_grad,
    p_out,
    p_sigmoid,
    p_pre,
    p_sums,
    p_weight,
    p_places,
    p_centre,
    p_packed,
    rows,  # and what follows: see slope_block
    rows_per_chunk,
    chunks,
    slope_programs,
    C,
    P,  # and what follows: see pack_block
    C_in,
    T,
    s_out,
    s_in,
    s_y,
    s_x,
    ACTIVATION: tl.constexpr,
    HAS_CENTRE: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The gradient of the pre-activation and its sums; the weights of the live taps, packed."""
    i_program = tl.program_id(0)
    if p_sums is not None:
        if i_program < slope_programs:
            n_blocks = tl.cdiv(C, BN)
            slope_block(
                i_program // n_blocks, i_program % n_blocks, p_grad, p_out, p_sigmoid, p_pre, p_sums,
                rows, rows_per_chunk, chunks, C, ACTIVATION, BM, BN,
            )  # fmt: skip
    if p_packed is not None:
        if i_program >= slope_programs:
            i_block, n_blocks = i_program - slope_programs, tl.cdiv(C_in * P, BLOCK)
            pack_block(
                i_block % n_blocks, i_block // n_blocks, T, p_weight, p_places, p_centre, p_packed,
                P, C_in, s_out, s_in, s_y, s_x, HAS_CENTRE, False, BLOCK,
            )  # fmt: skip


@triton.jit
def masked_conv_backward_kernel(
    p_pre,
    p_packed,
    p_grad_x,
    p_x,
    p_parts,
    pixels,
    pixels_per_part,
    weight_programs,
    H,
    W,
    C_in,
    P,
    T,
    RASTER: tl.constexpr,
    PRECISION: tl.constexpr,
    PER_TAP: tl.constexpr,  # of x's gradient, as its blocks
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    WEIGHT_PER_TAP: tl.constexpr,
    WEIGHT_BM: tl.constexpr,
    WEIGHT_BN: tl.constexpr,
    WEIGHT_BK: tl.constexpr,
):
    """Both products in one launch: programs of x's gradient fill the GPU while the weight's last ones run."""
    i_program = tl.program_id(0)
    if p_parts is not None:
        if i_program < weight_programs:
            weight_block(
                i_program, p_x, p_pre, p_parts, pixels, pixels_per_part, H, W, C_in, P, T,
                WEIGHT_PER_TAP, RASTER, PRECISION, WEIGHT_BM, WEIGHT_BN, WEIGHT_BK,
            )  # fmt: skip
    if p_grad_x is not None:
        if i_program >= weight_programs:
            conv_block(
                i_program - weight_programs, p_pre, p_packed, None, None, p_grad_x, None, pixels, H, W, P, C_in, T,
                C_in * P, 1, P, -1, "none", False, "none", False, PER_TAP, RASTER, PRECISION, BM, BN, BK,
            )  # fmt: skip


@triton.jit
def masked_conv_sums_kernel(
    p_parts,
    p_tap_of,
    p_centre,
    p_grad_weight,
    p_sums,
    p_grad_bias,
    p_grad_cond,
    parts,
    chunks,  # sums of an image
    images,
    weight_programs,
    bias_programs,
    T,
    P,
    C_in,
    KK: tl.constexpr,
    HAS_CENTRE: tl.constexpr,
    BLOCK: tl.constexpr,
    BIAS_BP: tl.constexpr,
    BIAS_BN: tl.constexpr,
    COND_BP: tl.constexpr,
    COND_BN: tl.constexpr,
):
    """Adds up the gradients of the weight, of the bias and of a condition that is a vector."""
    i_program = tl.program_id(0)
    i_sum = i_program - weight_programs
    if p_parts is not None:
        if i_program < weight_programs:
            n_blocks = tl.cdiv(C_in * P, BLOCK)
            unpack_block(
                i_program % n_blocks, i_program // n_blocks, p_parts, p_tap_of, p_centre, p_grad_weight,
                parts, T, P, C_in, KK, HAS_CENTRE, BLOCK,
            )  # fmt: skip
    if p_grad_bias is not None:
        if (i_sum >= 0) & (i_sum < bias_programs):
            add_block(tl.full([], 0, tl.int32), i_sum, p_sums, p_grad_bias, images * chunks, P, BIAS_BP, BIAS_BN)
    if p_grad_cond is not None:
        if i_sum >= bias_programs:
            i_cond, n_blocks = i_sum - bias_programs, tl.cdiv(P, COND_BN)
            add_block(i_cond // n_blocks, i_cond % n_blocks, p_sums, p_grad_cond, chunks, P, COND_BP, COND_BN)
