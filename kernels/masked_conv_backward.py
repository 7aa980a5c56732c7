"""The gradients of a masked convolution in three launches.

The slope of the activation, and the weights packed for x's gradient; both products, of x and of the weight; the parts
of the sums, added in order. What one launch does at once does not depend on each other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import launch
from .masked_conv import blocks, conv_block
from .masked_conv_weight import WeightPlan, plan, unpack_block, weight_block
from .parts import add_block, blocks_of_parts
from .slope import cut, slope_block
from .taps import PACKED, Taps, pack_block, places, raster, tap_of

UNPACKED = 256  # weights that a program unpacks


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


def backward(
    grad: Tensor,
    out: Tensor | None,
    sigmoid: Tensor | None,
    x: Tensor,
    weight: Tensor,
    taps: Taps,
    centre: Tensor | None,
    activation: str,
    needs: Sequence[bool],
    cond: Tensor | None,
) -> list[Tensor | None]:
    """Gradients of x, weight, bias and cond; None where ``needs`` is False. Arguments as in `masked_conv.forward`.

    grad, out, sigmoid: ``[B, H, W, C]``, contiguous. ``out`` is the activation's output, ``sigmoid`` the second factor
    of the gate; None where the activation needs none.
    """
    is_vector = cond is not None and cond.dim() == 2
    needs_x, needs_weight, needs_bias, needs_cond = needs
    needs_sums = needs_bias or (needs_cond and is_vector)
    pre, sums, packed = _slope(
        grad, out, sigmoid, weight, taps, centre, activation, activation != "none" or needs_sums, needs_x
    )
    grad_x, parts = _products(pre, packed, x, taps, needs_x, needs_weight)
    grad_weight, grad_bias, of_images = _sums(
        parts, sums, weight, taps, centre, needs_weight, needs_bias, needs_cond and is_vector
    )
    # pre may be the caller's own
    return [grad_x, grad_weight, grad_bias, of_images if is_vector or not needs_cond else pre.clone()]


def _slope(
    grad: Tensor,
    out: Tensor | None,
    sigmoid: Tensor | None,
    weight: Tensor,
    taps: Taps,
    centre: Tensor | None,
    activation: str,
    needs_slope: bool,
    needs_packed: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Gradient of the pre-activation, its sums ``[B, chunks, P]`` in float32, and weights ``[T, C_in, P]``."""
    images, columns, in_channels = len(grad), *weight.shape[:2]
    rows, per_chunk, chunks, n_blocks, config = cut(grad, images)
    pre, sums, programs = grad, None, 0
    if needs_slope:
        pre = grad if activation == "none" else grad.new_empty(*grad.shape[:-1], columns)
        sums, programs = grad.new_empty(images, chunks, columns, dtype=torch.float32), images * chunks * n_blocks
    packed = weight.new_empty(len(taps), in_channels, columns) if needs_packed else None
    pack_programs = launch.cdiv(in_channels * columns, PACKED) * len(taps) if needs_packed else 0
    if programs + pack_programs:
        masked_conv_slope_kernel[(programs + pack_programs,)](
            grad,
            out,
            sigmoid,
            pre,
            sums,
            weight,
            places(taps, weight.device),
            centre,
            packed,
            rows,
            per_chunk,
            chunks,
            programs,
            grad.shape[-1],
            columns,
            in_channels,
            len(taps),
            *weight.stride(),
            ACTIVATION=activation,
            HAS_CENTRE=centre is not None,
            BLOCK=PACKED,
            **config,
        )
    return pre, sums, packed


def _products(
    pre: Tensor, packed: Tensor | None, x: Tensor, taps: Taps, needs_x: bool, needs_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradient of x, and parts ``[parts, T, C_in, P]`` of that of the weight; None where not needed or of nothing."""
    (batch, height, width, in_channels), columns, n_taps = x.shape, pre.shape[-1], len(taps)
    pixels = batch * height * width
    config = blocks(pre, in_channels, n_taps, mirrored=True)
    grad_x, x_programs = None, 0
    if needs_x:
        grad_x = torch.empty_like(x)
        x_programs = launch.cdiv(pixels, config["BM"]) * launch.cdiv(in_channels, config["BN"])
    parts, weights = None, WeightPlan(0, 0, 0, 0, config)
    if needs_weight and pixels and n_taps:
        weights = plan(x, columns, n_taps)
        parts = x.new_empty(weights.parts, n_taps, in_channels, columns, dtype=torch.float32)
    if x_programs + weights.programs:
        own = weights.config.copy()
        common = {"num_warps": max(config.pop("num_warps"), own["num_warps"])}
        common["num_stages"] = min(config.pop("num_stages"), own["num_stages"])
        masked_conv_backward_kernel[(x_programs + weights.programs,)](
            pre,
            packed,
            grad_x,
            x,
            parts,
            pixels,
            weights.pixels_per_part,
            weights.programs,
            height,
            width,
            in_channels,
            columns,
            n_taps,
            RASTER=raster(taps),
            PRECISION=launch.conv_precision(x.dtype),
            WEIGHT_PER_TAP=weights.per_tap,
            WEIGHT_BM=own["BM"],
            WEIGHT_BN=own["BN"],
            WEIGHT_BK=own["BK"],
            **config,
            **common,
        )
    return grad_x, parts


def _sums(
    parts: Tensor | None,
    sums: Tensor | None,
    weight: Tensor,
    taps: Taps,
    centre: Tensor | None,
    needs_weight: bool,
    needs_bias: bool,
    needs_cond: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of weight ``[P, C_in, k, k]``, bias ``[P]`` and a condition ``[B, P]``; None where not needed."""
    columns, in_channels, *kernel_size = weight.shape
    area = kernel_size[0] * kernel_size[1]
    grad_weight = torch.empty_like(weight, memory_format=torch.contiguous_format) if needs_weight else None
    weight_programs = launch.cdiv(in_channels * columns, UNPACKED) * area if parts is not None else 0
    if grad_weight is not None and parts is None:
        grad_weight.zero_()
    images, chunks = (0, 0) if sums is None else sums.shape[:2]
    grad_bias = weight.new_empty(columns) if needs_bias else None
    grad_cond = weight.new_empty(images, columns) if needs_cond else None
    of_bias, of_cond = blocks_of_parts(images * chunks, columns), blocks_of_parts(chunks, columns)
    bias_programs = launch.cdiv(columns, of_bias[1]) if needs_bias else 0
    cond_programs = images * launch.cdiv(columns, of_cond[1]) if needs_cond else 0
    if programs := weight_programs + bias_programs + cond_programs:
        masked_conv_sums_kernel[(programs,)](
            parts,
            tap_of(taps, (kernel_size[0], kernel_size[1]), weight.device),
            centre,
            grad_weight,
            sums,
            grad_bias,
            grad_cond,
            0 if parts is None else len(parts),
            chunks,
            images,
            weight_programs,
            bias_programs,
            len(taps),
            columns,
            in_channels,
            area,
            centre is not None,
            UNPACKED,
            *of_bias,
            *of_cond,
        )
    return grad_weight, grad_bias, grad_cond
