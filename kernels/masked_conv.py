"""Masked convolution as an implicit matrix product over the live taps: no im2col, no multiplication by zero.

Images are ``[B, H, W, C]``, contiguous. T live taps, P columns of the pre-activation (twice the channels of the output
under the gate), weights packed to ``[T, C_in, P]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import launch
from .activate import activate, tanh
from .dot import dot
from .parts import add_parts
from .slope import slope

PROGRAMS = 264  # that the gradient of the weight is split into at least: two for each SM of an H100
FLAT_BELOW = 16  # channels; with fewer, one block of K spans several taps


@triton.jit
def pack_kernel(
    p_weight,
    p_taps,
    p_centre,
    p_packed,
    P,
    C_in,
    s_out,
    s_in,
    s_y,
    s_x,
    RY: tl.constexpr,
    RX: tl.constexpr,
    HAS_CENTRE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Live taps of ``[P, C_in, k, k]`` to ``[T, C_in, P]``. Dead weights are not read: they may be anything."""
    i_tap = tl.program_id(0)
    o = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    o_in, o_out = o // P, o % P
    mask = o < C_in * P
    live = mask
    if HAS_CENTRE:  # the last tap is alive in part
        if i_tap == tl.num_programs(0) - 1:
            live = mask & (tl.load(p_centre + o_out * C_in + o_in, mask, other=0) != 0)
    dy, dx = tl.load(p_taps + 2 * i_tap), tl.load(p_taps + 2 * i_tap + 1)
    at = o_out * s_out + o_in * s_in + (RY + dy) * s_y + (RX + dx) * s_x
    tl.store(p_packed + i_tap * C_in * P + o, tl.load(p_weight + at, live, other=0.0), mask)


@triton.jit
def rows_and_columns(o_m, pixels, H, W):
    """Row and column of a pixel in its image; past the last pixel a row that no tap brings back into the image."""
    i = tl.where(o_m < pixels, (o_m // W) % H, -(2 << 20))
    return i, o_m % W


@triton.jit
def k_block(p_taps, i_k, C_in, T, SIGN: tl.constexpr, FLAT: tl.constexpr, BK: tl.constexpr):
    """Block i_k of K = taps x channels: tap, channel, which are real, and the taps' offsets. FLAT: across taps."""
    if FLAT:
        o_k = i_k * BK + tl.arange(0, BK)
        tap = o_k // C_in
        channel = o_k % C_in
        real = o_k < T * C_in
        dy = tl.load(p_taps + 2 * tap, real, other=0)[None, :]
        dx = tl.load(p_taps + 2 * tap + 1, real, other=0)[None, :]
    else:
        blocks = tl.cdiv(C_in, BK)
        tap = i_k // blocks
        channel = (i_k % blocks) * BK + tl.arange(0, BK)
        real = channel < C_in
        dy = tl.load(p_taps + 2 * tap)
        dx = tl.load(p_taps + 2 * tap + 1)
    return tap, channel, real, SIGN * dy, SIGN * dx


@triton.jit
def conv_kernel(
    p_x,
    p_weight,
    p_bias,
    p_cond,
    p_taps,
    p_out,
    p_sigmoid,
    pixels,
    H,
    W,
    C_in,
    C_out,
    T,
    s_tap,
    s_k,
    s_n,
    SIGN: tl.constexpr,  # 1; -1 for the gradient of x, which reads where the taps were read from
    ACTIVATION: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    COND: tl.constexpr,  # none, vector, map
    SAVE: tl.constexpr,
    FLAT: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """BM pixels x BN channels a program; under the gate both halves of these, so that 2 C never reaches memory."""
    GATE: tl.constexpr = ACTIVATION == "gate"
    n_blocks = tl.cdiv(C_out, BN)
    i_m, i_n = tl.program_id(0) // n_blocks, tl.program_id(0) % n_blocks
    o_row = tl.arange(0, BM)
    o_m = i_m * BM + o_row
    o_n = i_n * BN + tl.arange(0, BN)
    i, j = rows_and_columns(o_m, pixels, H, W)
    p_tile = p_x + (i_m * BM).to(tl.int64) * C_in
    a = tl.zeros([BM, BN], tl.float32)
    b = tl.zeros([BM, BN], tl.float32)
    k_blocks = tl.cdiv(T * C_in, BK) if FLAT else T * tl.cdiv(C_in, BK)
    for i_k in range(k_blocks):
        tap, channel, real, dy, dx = k_block(p_taps, i_k, C_in, T, SIGN, FLAT, BK)
        row, column = i[:, None] + dy, j[:, None] + dx
        inside = (row >= 0) & (row < H) & (column >= 0) & (column < W) & real[None, :]
        at = (o_row[:, None] + dy * W + dx) * C_in + channel[None, :]
        b_x = tl.load(p_tile + at, inside, other=0.0)  # [BM, BK]
        p_w = p_weight + (tap * s_tap + channel * s_k)[:, None] + o_n[None, :] * s_n
        live = real[:, None] & (o_n < C_out)[None, :]
        b_w = tl.load(p_w, live, other=0.0)  # [BK, BN]
        a = dot(b_x, b_w, a, PRECISION)
        if GATE:
            b_w = tl.load(p_w + C_out * s_n, live, other=0.0)
            b = dot(b_x, b_w, b, PRECISION)

    mask = (o_m < pixels)[:, None] & (o_n < C_out)[None, :]
    if HAS_BIAS:
        a += tl.load(p_bias + o_n, o_n < C_out, other=0.0).to(tl.float32)[None, :]
        if GATE:
            b += tl.load(p_bias + C_out + o_n, o_n < C_out, other=0.0).to(tl.float32)[None, :]
    if COND != "none":
        columns = 2 * C_out if GATE else C_out
        which = o_m // (H * W) if COND == "vector" else o_m
        p_c = p_cond + which.to(tl.int64)[:, None] * columns + o_n[None, :]
        a += tl.load(p_c, mask, other=0.0).to(tl.float32)
        if GATE:
            b += tl.load(p_c + C_out, mask, other=0.0).to(tl.float32)
    to = o_m.to(tl.int64)[:, None] * C_out + o_n[None, :]
    if GATE:
        sigmoid = tl.sigmoid(b)
        a = tanh(a) * sigmoid
        if SAVE:
            tl.store(p_sigmoid + to, sigmoid.to(p_sigmoid.dtype.element_ty), mask)
    else:
        a = activate(a, ACTIVATION)
    tl.store(p_out + to, a.to(p_out.dtype.element_ty), mask)


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
    i_tap = tl.load(p_tap_of + tl.program_id(0))
    o = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    o_in, o_out = o // P, o % P
    mask = o < C_in * P
    live = o < tl.where(i_tap < 0, 0, C_in * P)
    if HAS_CENTRE:
        if i_tap == T - 1:
            live = live & (tl.load(p_centre + o_out * C_in + o_in, mask, other=0) != 0)
    total = tl.zeros([BLOCK], tl.float32)
    for split in range(splits):
        total += tl.load(p_partial + (split * T + i_tap) * C_in * P + o, live, other=0.0)
    to = (o_out * C_in + o_in) * KK + tl.program_id(0)
    tl.store(p_weight + to, total.to(p_weight.dtype.element_ty), mask)


Taps = tuple[tuple[int, int], ...]


@lru_cache(maxsize=256)
def _taps(taps: Taps, device: torch.device) -> Tensor:
    return torch.tensor(taps or [(0, 0)], dtype=torch.int32, device=device)


@lru_cache(maxsize=256)
def _tap_of(taps: Taps, kernel_size: tuple[int, int], device: torch.device) -> Tensor:
    """Index of the tap at each place of the kernel, -1 where it is dead."""
    height, width = kernel_size
    places = [(y - height // 2, x - width // 2) for y in range(height) for x in range(width)]
    return torch.tensor([taps.index(p) if p in taps else -1 for p in places], dtype=torch.int32, device=device)


def _pack(weight: Tensor, taps: Taps, centre: Tensor | None) -> Tensor:
    out_channels, in_channels, height, width = weight.shape
    packed = weight.new_empty(len(taps), in_channels, out_channels)
    if packed.numel():
        grid = (len(taps), launch.cdiv(in_channels * out_channels, 1024))
        pack_kernel[grid](
            weight,
            _taps(taps, weight.device),
            centre,
            packed,
            out_channels,
            in_channels,
            *weight.stride(),
            height // 2,
            width // 2,
            centre is not None,
            1024,
        )
    return packed


def _conv(
    x: Tensor,
    packed: Tensor,
    bias: Tensor | None,
    cond: Tensor | None,
    taps: Taps,
    activation: str,
    save: bool,
    *,
    mirrored: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """The convolution of x; ``mirrored``: its transpose, from the columns back to the input channels."""
    batch, height, width, in_channels = x.shape
    s_tap, s_k, s_n = packed.stride()
    columns = packed.shape[1 if mirrored else 2]
    if mirrored:
        s_k, s_n = s_n, s_k
    channels = columns // 2 if activation == "gate" else columns
    out = x.new_empty(batch, height, width, channels)
    sigmoid = torch.empty_like(out) if save else None
    if out.numel() == 0:
        return out, sigmoid
    config = launch.config("masked_conv", x, in_channels, channels)
    flat = in_channels < FLAT_BELOW
    pixels = batch * height * width
    config["BM"] = launch.shrunk(config["BM"], pixels)
    config["BN"] = launch.shrunk(config["BN"], channels)
    config["BK"] = launch.shrunk(config["BK"], in_channels * (len(taps) if flat else 1))
    conv_kernel[(launch.cdiv(pixels, config["BM"]) * launch.cdiv(channels, config["BN"]),)](
        x,
        packed,
        bias,
        cond,
        _taps(taps, x.device),
        out,
        sigmoid,
        pixels,
        height,
        width,
        in_channels,
        channels,
        len(taps),
        s_tap,
        s_k,
        s_n,
        SIGN=-1 if mirrored else 1,
        ACTIVATION=activation,
        HAS_BIAS=bias is not None,
        COND="none" if cond is None else "vector" if cond.dim() == 2 else "map",
        SAVE=save,
        FLAT=flat,
        PRECISION=launch.conv_precision(x.dtype),
        **config,
    )
    return out, sigmoid


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cond: Tensor | None,
    taps: Taps,
    centre: Tensor | None,
    activation: str,
    save: bool,
) -> tuple[Tensor, Tensor | None]:
    """Output ``[B, H, W, C]`` and, with ``save``, the sigmoid of the gate.

    Args:
        x: ``[B, H, W, C_in]``, contiguous. weight: ``[P, C_in, k, k]``, any strides. bias: ``[P]``.
        cond: ``[B, P]`` or ``[B, H, W, P]``, contiguous.
        taps: live taps (dy, dx). centre: boolean ``[P, C_in]``, the mask of the last tap, None where it is all alive.
    """
    return _conv(x, _pack(weight, taps, centre), bias, cond, taps, activation, save)


def _grad_weight(x: Tensor, grad: Tensor, weight: Tensor, taps: Taps, centre: Tensor | None) -> Tensor:
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
        _taps(taps, x.device),
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
    places = kernel_size[0] * kernel_size[1]
    unpack_kernel[(places, launch.cdiv(in_channels * columns, 256))](
        partial,
        _tap_of(taps, kernel_size, x.device),
        centre,
        out,
        splits,
        n_taps,
        columns,
        in_channels,
        places,
        centre is not None,
        256,
    )
    return out


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
    """Gradients of x, weight, bias and cond; None where ``needs`` is False. Arguments as of `forward`."""
    cond_is_vector = cond is not None and cond.dim() == 2
    grads: list[Tensor | None] = [None] * 4
    pre = grad
    if activation != "none" or needs[2] or (needs[3] and cond_is_vector):
        pre, sums = slope(grad, out, sigmoid, activation, x.shape[0])
        if needs[2]:
            grads[2] = add_parts(sums.flatten(0, 1)[None], grad.dtype)[0]
        if needs[3] and cond_is_vector:
            grads[3] = add_parts(sums, grad.dtype)
    if needs[3] and not cond_is_vector:
        grads[3] = pre.clone()  # pre may be the caller's own
    if needs[0]:
        packed = _pack(weight, taps, centre)
        grads[0], _ = _conv(pre, packed, None, None, taps, "none", False, mirrored=True)
    if needs[1]:
        grads[1] = _grad_weight(x, pre, weight, taps, centre)
    return grads
