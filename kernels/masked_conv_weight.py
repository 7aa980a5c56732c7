"""The gradient of a masked convolution's weight: live taps only, split over the pixels, summed in order."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import launch
from .dot import dot
from .taps import FLAT_BELOW, Taps, k_block, offsets, rows_and_columns, tap_of

PROGRAMS = 264  # that the gradient is split into at least; fixed, for the order of sums must not hang on the device


@triton.jit
def weight_grad_kernel(
    p_x,
    p_grad,
    p_taps,
    p_partial,
    pixels,
    pixels_per_split,
    H,
    W,
    C_in,
    P,
    T,
    FLAT: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """A program sums BK rows (tap, channel) x BN columns over its split of the pixels, BM at a time."""
    i_k, i_n, i_split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    tap, channel, real, dy, dx = k_block(p_taps, i_k, C_in, T, 1, FLAT, BK)
    o_n = i_n * BN + tl.arange(0, BN)
    o_row = tl.arange(0, BM)
    begin = i_split * pixels_per_split
    end = tl.minimum(begin + pixels_per_split, pixels)
    acc = tl.zeros([BK, BN], tl.float32)
    for start in range(begin, end, BM):
        o_m = start + o_row
        i, j = rows_and_columns(o_m, end, H, W)
        row, column = i[:, None] + dy, j[:, None] + dx
        inside = (row >= 0) & (row < H) & (column >= 0) & (column < W) & real[None, :]
        at = (o_row[:, None] + dy * W + dx) * C_in + channel[None, :]
        b_x = tl.load(p_x + tl.cast(start, tl.int64) * C_in + at, inside, other=0.0)  # [BM, BK]
        mask = (o_m < end)[:, None] & (o_n < P)[None, :]
        p_g = p_grad + tl.cast(start, tl.int64) * P + o_row[:, None] * P + o_n[None, :]
        b_g = tl.load(p_g, mask, other=0.0)  # [BM, BN]
        acc = dot(tl.trans(b_x), b_g, acc, PRECISION)
    to = ((i_split * T + tap) * C_in + channel)[:, None] * P + o_n[None, :]
    tl.store(p_partial + to, acc, real[:, None] & (o_n < P)[None, :])


@triton.jit
def unpack_kernel(
    p_partial,
    p_tap_of,
    p_centre,
    p_weight,
    splits,
    T,
    P,
    C_in,
    KK: tl.constexpr,
    HAS_CENTRE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Sums the splits in order and scatters to ``[P, C_in, k, k]``; dead entries become 0."""
    i_tap = tl.load(p_tap_of + tl.program_id(1))
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    o_in, o_out = o // P, o % P
    mask = o < C_in * P
    live = o < tl.where(i_tap < 0, 0, C_in * P)
    if HAS_CENTRE:
        if i_tap == T - 1:
            live = live & (tl.load(p_centre + o_out * C_in + o_in, mask, other=0) != 0)
    total = tl.zeros([BLOCK], tl.float32)
    for split in range(splits):
        total += tl.load(p_partial + (split * T + i_tap) * C_in * P + o, live, other=0.0)
    to = (o_out * C_in + o_in) * KK + tl.program_id(1)
    tl.store(p_weight + to, total.to(p_weight.dtype.element_ty), mask)


def grad_weight(x: Tensor, grad: Tensor, weight: Tensor, taps: Taps, centre: Tensor | None) -> Tensor:
    batch, height, width, in_channels = x.shape
    columns, n_taps, pixels = grad.shape[-1], len(taps), batch * height * width
    out = torch.empty_like(weight, memory_format=torch.contiguous_format)
    if pixels == 0 or n_taps == 0:
        return out.zero_()
    config = launch.config("masked_conv_weight", x, in_channels, columns)
    flat = in_channels < FLAT_BELOW
    config["BM"] = launch.shrunk(config["BM"], pixels)
    config["BN"] = launch.shrunk(config["BN"], columns)
    config["BK"] = launch.shrunk(config["BK"], in_channels * (n_taps if flat else 1))
    block_k = config["BK"]
    k_blocks = launch.cdiv(n_taps * in_channels, block_k) if flat else n_taps * launch.cdiv(in_channels, block_k)
    n_blocks = launch.cdiv(columns, config["BN"])
    splits = min(launch.cdiv(PROGRAMS, k_blocks * n_blocks), launch.cdiv(pixels, 4 * config["BM"]))
    per_split = launch.cdiv(launch.cdiv(pixels, splits), config["BM"]) * config["BM"]
    splits = launch.cdiv(pixels, per_split)
    partial = x.new_empty(splits, n_taps, in_channels, columns, dtype=torch.float32)
    weight_grad_kernel[(k_blocks, n_blocks, splits)](
        x,
        grad,
        offsets(taps, x.device),
        partial,
        pixels,
        per_split,
        height,
        width,
        in_channels,
        columns,
        n_taps,
        FLAT=flat,
        PRECISION=launch.conv_precision(x.dtype),
        **config,
    )
    kernel_size = (weight.shape[2], weight.shape[3])
    area = kernel_size[0] * kernel_size[1]
    unpack_kernel[(launch.cdiv(in_channels * columns, 256), area)](
        partial,
        tap_of(taps, kernel_size, x.device),
        centre,
        out,
        splits,
        n_taps,
        columns,
        in_channels,
        area,
        centre is not None,
        256,
    )
    return out
