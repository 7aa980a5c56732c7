"""The gradient of a masked convolution's weight: live taps only, in parts of the pixels, which are added in order."""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from . import launch
from .dot import dot
from .taps import FLAT_BELOW, blocks_per_tap, k_block, rows_and_columns

# At most: two for each processor of an H100, where one more would make a third round. Fixed, so that the order of sums
# does not depend on the device.
PROGRAMS = 264


@triton.jit
def weight_block(
    i_program,
    p_x,
    p_grad,
    p_parts,
    pixels,
    pixels_per_part,
    H,
    W,
    C_in,
    P,
    T,
    PER_TAP: tl.constexpr,  # blocks of K in one tap; 0: a block spans taps
    RASTER: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """Sums BK rows (tap, channel) x BN columns over a part of the pixels, BM at a time."""
    k_blocks = tl.cdiv(T * C_in, BK) if PER_TAP == 0 else T * PER_TAP
    n_blocks = tl.cdiv(P, BN)
    i_k, i_n, i_part = i_program % k_blocks, i_program // k_blocks % n_blocks, i_program // (k_blocks * n_blocks)
    o_tap, o_c, m_k, o_dy, o_dx = k_block(i_k, C_in, T, 1, PER_TAP, RASTER, BK)
    o_n = i_n * BN + tl.arange(0, BN)
    o_row = tl.arange(0, BM)
    begin = i_part * pixels_per_part
    end = tl.minimum(begin + pixels_per_part, pixels)
    b_sum = tl.zeros([BK, BN], tl.float32)
    for start in range(begin, end, BM):
        o_m = start + o_row
        o_i, o_j = rows_and_columns(o_m, end, H, W)
        o_y, o_x = o_i[:, None] + o_dy, o_j[:, None] + o_dx
        m_x = (o_y >= 0) & (o_y < H) & (o_x >= 0) & (o_x < W) & m_k[None, :]
        o_tile = (o_row[:, None] + o_dy * W + o_dx) * C_in + o_c[None, :]
        b_x = tl.load(p_x + tl.cast(start, tl.int64) * C_in + o_tile, m_x, other=0.0)  # [BM, BK]
        m_grad = (o_m < end)[:, None] & (o_n < P)[None, :]
        p_g = p_grad + tl.cast(start, tl.int64) * P + o_row[:, None] * P + o_n[None, :]
        b_grad = tl.load(p_g, m_grad, other=0.0)  # [BM, BN]
        b_sum = dot(tl.trans(b_x), b_grad, b_sum, PRECISION)
    o_sum = ((i_part * T + o_tap) * C_in + o_c)[:, None] * P + o_n[None, :]
    tl.store(p_parts + o_sum, b_sum, m_k[:, None] & (o_n < P)[None, :])


@triton.jit
def unpack_block(
    i_block,
    i_place,
    p_parts,
    p_tap_of,
    p_centre,
    p_weight,
    parts,
    T,
    P,
    C_in,
    KK: tl.constexpr,
    HAS_CENTRE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Adds the parts in order and scatters the sum to a place of ``[P, C_in, k, k]``; dead entries become 0."""
    i_tap = tl.load(p_tap_of + i_place)
    o_packed = i_block * BLOCK + tl.arange(0, BLOCK)
    o_in, o_out = o_packed // P, o_packed % P
    m_packed = o_packed < C_in * P
    m_live = o_packed < tl.where(i_tap < 0, 0, C_in * P)
    if HAS_CENTRE:
        if i_tap == T - 1:
            m_live = m_live & (tl.load(p_centre + o_out * C_in + o_in, m_packed, other=0) != 0)
    b_sum = tl.zeros([BLOCK], tl.float32)
    for i_part in range(parts):
        b_sum += tl.load(p_parts + (i_part * T + i_tap) * C_in * P + o_packed, m_live, other=0.0)
    o_weight = (o_out * C_in + o_in) * KK + i_place
    tl.store(p_weight + o_weight, b_sum.to(p_weight.dtype.element_ty), m_packed)


class WeightPlan(NamedTuple):
    """A product ``[taps * C_in, pixels] x [pixels, P]``, cut into programs."""

    programs: int
    parts: int  # of the pixels
    pixels_per_part: int
    per_tap: int  # blocks of K in one tap; 0: a block spans taps
    config: launch.Config


def plan(x: Tensor | launch.Like, columns: int, n_taps: int) -> WeightPlan:
    batch, in_channels, height, width = x.shape
    pixels = batch * height * width
    config = launch.config("masked_conv_weight", x, in_channels, columns)
    config["BM"] = launch.shrunk(config["BM"], pixels)
    config["BN"] = launch.shrunk(config["BN"], columns)
    config["BK"] = launch.shrunk(config["BK"], in_channels * (n_taps if in_channels < FLAT_BELOW else 1))
    per_tap = blocks_per_tap(in_channels, config["BK"])
    k_blocks = n_taps * per_tap if per_tap else launch.cdiv(n_taps * in_channels, config["BK"])
    n_blocks = launch.cdiv(columns, config["BN"])
    parts = min(max(PROGRAMS // (k_blocks * n_blocks), 1), launch.cdiv(pixels, 4 * config["BM"]))
    per_part = launch.cdiv(launch.cdiv(pixels, parts), config["BM"]) * config["BM"]
    parts = launch.cdiv(pixels, per_part)
    return WeightPlan(k_blocks * n_blocks * parts, parts, per_part, per_tap, config)
