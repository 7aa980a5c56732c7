"""Live taps of a mask: the places that a block of K = taps x channels reads, and the weights of these taps alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from vlae_fast.kept import kept
from vlae_fast.masks import Tap

from . import launch

PACKED = 1024  # weights that a program packs
FLAT_BELOW = 16  # channels; with fewer, one block of K spans several taps

Taps = tuple[Tap, ...]


@dataclass(frozen=True, eq=False)  # of the same mask the same object is given again: a short key of plans
class Live:
    """The live weights of a mask."""

    taps: Taps  # those with a live weight
    centre: Tensor | None = None  # boolean [P, C_in], the mask of the last tap; None where all of it is alive

    def __len__(self) -> int:
        return len(self.taps)

    @cached_property
    def raster(self) -> Raster:
        return raster(self.taps)


class Raster(NamedTuple):
    """Taps in the order of a raster: tap t reads at the first one's offset + step * (t // per_row, t % per_row)."""

    per_row: int
    first_y: int
    first_x: int
    step_y: int
    step_x: int


@cache
def raster(taps: Taps) -> Raster:
    """The raster that live taps are the first of; `k_block` takes it as a constant."""
    rows, columns = (sorted({tap.offset[axis] for tap in taps}) or [0] for axis in (0, 1))
    steps = [places[1] - places[0] if len(places) > 1 else 0 for places in (rows, columns)]
    found = Raster(len(columns), rows[0], columns[0], *steps)
    for t, tap in enumerate(taps):
        row, column = divmod(t, found.per_row)
        assert tap.offset == (
            found.first_y + found.step_y * row,
            found.first_x + found.step_x * column,
        ), f"taps in the order of a raster were expected, got {taps}"
    return found


def blocks_per_tap(in_channels: int, block: int) -> int:
    """Blocks of K in one tap; 0 where a block spans taps."""
    return 0 if in_channels < FLAT_BELOW else launch.cdiv(in_channels, block)


@triton.jit
def rows_and_columns(o_m, pixels, H, W):
    """Row and column of a pixel in its image; past the last pixel a row that no tap brings back into the image."""
    o_i = tl.where(o_m < pixels, (o_m // W) % H, -(2 << 20))
    return o_i, o_m % W


@triton.jit
def k_block(i_k, C_in, T, SIGN: tl.constexpr, PER_TAP: tl.constexpr, RASTER: tl.constexpr, BK: tl.constexpr):
    """Block i_k of K = taps x channels: taps, channels, which of them exist, and the taps' offsets times SIGN.

    With PER_TAP 0 a block spans taps, [BK]; else it is one of the PER_TAP blocks of channels of one tap, a scalar. The
    offsets are computed: a load of them inside the loop would stand before those of x and the weight, and the pipeline
    would be half as deep.
    """
    if PER_TAP == 0:
        o_k = i_k * BK + tl.arange(0, BK)
        o_tap = o_k // C_in
        o_c = o_k % C_in
        m_k = o_k < T * C_in
        b_tap = o_tap.to(tl.uint32, bitcast=True)  # a division by a constant takes fewer registers without a sign
        o_row = (b_tap // RASTER[0]).to(tl.int32, bitcast=True)[None, :]
        o_column = (b_tap % RASTER[0]).to(tl.int32, bitcast=True)[None, :]
    else:
        o_tap = i_k // PER_TAP
        o_c = (i_k % PER_TAP) * BK + tl.arange(0, BK)
        m_k = o_c < C_in
        o_row = o_tap // RASTER[0]
        o_column = o_tap % RASTER[0]
    o_dy = SIGN * RASTER[1] + SIGN * RASTER[3] * o_row
    o_dx = SIGN * RASTER[2] + SIGN * RASTER[4] * o_column
    return o_tap, o_c, m_k, o_dy, o_dx


@triton.jit
def pack_block(
    i_block,
    i_tap,
    T,
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
    PAIRED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Copies a block of a live tap of ``[P, C_in, k, k]`` to ``[T, C_in, P]``.

    Dead weights are not read: they may be anything.

    PAIRED: columns a_0, b_0, a_1, b_1, ... of a gate's halves a and b.
    """
    o_packed = i_block * BLOCK + tl.arange(0, BLOCK)
    o_in, o_out = o_packed // P, o_packed % P
    if PAIRED:
        o_out = o_out % 2 * (P // 2) + o_out // 2
    m_packed = o_packed < C_in * P
    m_live = m_packed
    if HAS_CENTRE:  # the last tap is alive in part
        if i_tap == T - 1:
            m_live = m_packed & (tl.load(p_centre + o_out * C_in + o_in, m_packed, other=0) != 0)
    y, x = tl.load(p_places + 2 * i_tap), tl.load(p_places + 2 * i_tap + 1)
    o_weight = o_out * s_out + o_in * s_in + y * s_y + x * s_x
    tl.store(p_packed + i_tap * C_in * P + o_packed, tl.load(p_weight + o_weight, m_live, other=0.0), m_packed)


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
    PAIRED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    pack_block(
        tl.program_id(0), tl.program_id(1), tl.num_programs(1), p_weight, p_places, p_centre, p_packed,
        P, C_in, s_out, s_in, s_y, s_x, HAS_CENTRE, PAIRED, BLOCK,
    )  # fmt: skip


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


def pack(live: Live, weight_shape: Sequence[int], strides: Sequence[int], *, paired: bool) -> launch.Launch:
    """The launch that packs weights ``[P, C_in, k, k]``, of any strides, to ``[T, C_in, P]``.

    ``paired``: columns c and P / 2 + c, the two of a gate's channel, stand side by side.
    """
    out_channels, in_channels = weight_shape[:2]
    return launch.prepared(
        masked_conv_pack_kernel,
        (launch.cdiv(in_channels * out_channels, PACKED), len(live)),
        P=out_channels,
        C_in=in_channels,
        **dict(zip(("s_out", "s_in", "s_y", "s_x"), strides, strict=True)),
        HAS_CENTRE=live.centre is not None,
        PAIRED=paired,
        BLOCK=PACKED,
    )
