"""Live taps of a mask: the places that a block of K = taps x channels reads, and the weights of these taps alone."""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from vlae_fast.kept import kept
from vlae_fast.masks import Tap

from . import launch

FLAT_BELOW = 16  # channels; with fewer, one block of K spans several taps

Taps = tuple[Tap, ...]


@triton.jit
def rows_and_columns(o_m, pixels, H, W):
    """Row and column of a pixel in its image; past the last pixel a row that no tap brings back into the image."""
    o_i = tl.where(o_m < pixels, (o_m // W) % H, -(2 << 20))
    return o_i, o_m % W


@triton.jit
def k_block(p_taps, i_k, C_in, T, SIGN: tl.constexpr, FLAT: tl.constexpr, BK: tl.constexpr):
    """Block i_k of K = taps x channels: taps, channels, which of them exist, and the taps' offsets times SIGN.

    FLAT blocks span taps, [BK]; the others are channels of one tap, a scalar.
    """
    if FLAT:
        o_k = i_k * BK + tl.arange(0, BK)
        o_tap = o_k // C_in
        o_c = o_k % C_in
        m_k = o_k < T * C_in
        o_dy = tl.load(p_taps + 2 * o_tap, m_k, other=0)[None, :]
        o_dx = tl.load(p_taps + 2 * o_tap + 1, m_k, other=0)[None, :]
    else:
        n_blocks = tl.cdiv(C_in, BK)
        o_tap = i_k // n_blocks
        o_c = (i_k % n_blocks) * BK + tl.arange(0, BK)
        m_k = o_c < C_in
        o_dy = tl.load(p_taps + 2 * o_tap)
        o_dx = tl.load(p_taps + 2 * o_tap + 1)
    return o_tap, o_c, m_k, SIGN * o_dy, SIGN * o_dx


@triton.jit
def masked_conv_pack_kernel(
    p_weight,
    p_places,
    p_centre,
    p_packed,
    P,
    C_in,
    s_out,
    s_in,
    s_y,
    s_x,
    HAS_CENTRE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Copies live taps of ``[P, C_in, k, k]`` to ``[T, C_in, P]``. Dead weights are not read: they may be anything."""
    i_tap = tl.program_id(1)
    o_packed = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    o_in, o_out = o_packed // P, o_packed % P
    m_packed = o_packed < C_in * P
    m_live = m_packed
    if HAS_CENTRE:  # the last tap is alive in part
        if i_tap == tl.num_programs(1) - 1:
            m_live = m_packed & (tl.load(p_centre + o_out * C_in + o_in, m_packed, other=0) != 0)
    y, x = tl.load(p_places + 2 * i_tap), tl.load(p_places + 2 * i_tap + 1)
    o_weight = o_out * s_out + o_in * s_in + y * s_y + x * s_x
    tl.store(p_packed + i_tap * C_in * P + o_packed, tl.load(p_weight + o_weight, m_live, other=0.0), m_packed)


@cache  # a captured graph knows the address of the table
def offsets(taps: Taps, device: torch.device) -> Tensor:
    """dy, dx of each tap."""
    pairs = [tap.offset for tap in taps] or [(0, 0)]
    return kept(device, lambda: torch.tensor(pairs, dtype=torch.int32, device=device))


@cache  # a captured graph knows the address of the table
def places(taps: Taps, device: torch.device) -> Tensor:
    """Row and column of each tap in the kernel."""
    pairs = [tap.place for tap in taps]
    return kept(device, lambda: torch.tensor(pairs, dtype=torch.int32, device=device))


@cache  # a captured graph knows the address of the table
def tap_of(taps: Taps, kernel_size: tuple[int, int], device: torch.device) -> Tensor:
    """Index of the tap at each place of the kernel, -1 where it is dead."""
    height, width = kernel_size
    index = {tap.place: i for i, tap in enumerate(taps)}
    indices = [index.get((y, x), -1) for y in range(height) for x in range(width)]
    return kept(device, lambda: torch.tensor(indices, dtype=torch.int32, device=device))


def pack(weight: Tensor, taps: Taps, centre: Tensor | None) -> Tensor:
    """Weights ``[T, C_in, P]`` of the live taps of ``[P, C_in, k, k]``, any strides."""
    out_channels, in_channels = weight.shape[:2]
    packed = weight.new_empty(len(taps), in_channels, out_channels)
    if packed.numel():
        grid = (launch.cdiv(in_channels * out_channels, 1024), len(taps))
        masked_conv_pack_kernel[grid](
            weight,
            places(taps, weight.device),
            centre,
            packed,
            out_channels,
            in_channels,
            *weight.stride(),
            centre is not None,
            1024,
        )
    return packed
