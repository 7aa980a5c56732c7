"""Masked convolution as an implicit matrix product over the live taps: no im2col, no multiplication by zero.

Images are ``[B, C, H, W]`` in channels_last: in memory, and to the kernels, ``[B, H, W, C]``. T live taps, P channels
before the activation, C after it (P / 2 under the gate, else P). Weights are packed to ``[T, C_in, P]``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from vlae_fast.kept import planned

from . import launch
from .activate import activate, sigmoid_of_16_bits, tanh, tanh_of_16_bits
from .dot import dot
from .taps import FLAT_BELOW, Live, blocks_per_tap, k_block, pack, places, rows_and_columns


@triton.jit
def conv_block(
    i_program,
    p_x,
    p_weight,
    p_bias,
    p_cond,
    p_out,
    p_sigmoid,
    pixels,
    H,
    W,
    C_in,
    C,
    T,
    s_tap,
    s_k,
    s_n,
    SIGN: tl.constexpr,  # 1; -1 for the gradient of x, which reads where the taps were read from
    ACTIVATION: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    COND: tl.constexpr,  # none, vector, map
    WITH_SIGMOID: tl.constexpr,
    PER_TAP: tl.constexpr,  # blocks of K in one tap; 0: a block spans taps
    RASTER: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """Computes BM pixels x BN channels; under the gate both halves of P, so that they never reach memory.

    They are one product of 2 BN columns, the two of a channel side by side, which a thread then holds both.
    """
    GATE: tl.constexpr = ACTIVATION == "gate"
    n_blocks = tl.cdiv(C, BN)
    i_m, i_n = i_program // n_blocks, i_program % n_blocks
    o_row = tl.arange(0, BM)
    o_m = i_m * BM + o_row
    o_n = i_n * BN + tl.arange(0, BN)
    N: tl.constexpr = 2 * BN if GATE else BN
    o_p = i_n * N + tl.arange(0, N)  # columns of the weight
    P = 2 * C if GATE else C
    o_i, o_j = rows_and_columns(o_m, pixels, H, W)
    p_tile = p_x + (i_m * BM).to(tl.int64) * C_in
    b_sum = tl.zeros([BM, N], tl.float32)
    k_blocks = tl.cdiv(T * C_in, BK) if PER_TAP == 0 else T * PER_TAP
    for i_k in range(k_blocks):
        o_tap, o_c, m_k, o_dy, o_dx = k_block(i_k, C_in, T, SIGN, PER_TAP, RASTER, BK)
        o_y, o_x = o_i[:, None] + o_dy, o_j[:, None] + o_dx
        m_x = (o_y >= 0) & (o_y < H) & (o_x >= 0) & (o_x < W) & m_k[None, :]
        o_tile = (o_row[:, None] + o_dy * W + o_dx) * C_in + o_c[None, :]
        b_x = tl.load(p_tile + o_tile, m_x, other=0.0)  # [BM, BK]
        p_w = p_weight + (o_tap * s_tap + o_c * s_k)[:, None] + o_p[None, :] * s_n
        b_w = tl.load(p_w, m_k[:, None] & (o_p < P)[None, :], other=0.0)  # [BK, N]
        b_sum = dot(b_x, b_w, b_sum, PRECISION)

    if GATE:
        b_a, b_b = tl.split(tl.reshape(b_sum, (BM, BN, 2)))
    else:
        b_a = b_sum
    m_out = (o_m < pixels)[:, None] & (o_n < C)[None, :]
    if HAS_BIAS:
        b_a += tl.load(p_bias + o_n, o_n < C, other=0.0).to(tl.float32)[None, :]
        if GATE:
            b_b += tl.load(p_bias + C + o_n, o_n < C, other=0.0).to(tl.float32)[None, :]
    if COND != "none":
        o_cond = o_m // (H * W) if COND == "vector" else o_m
        p_c = p_cond + o_cond.to(tl.int64)[:, None] * P + o_n[None, :]
        b_a += tl.load(p_c, m_out, other=0.0).to(tl.float32)
        if GATE:
            b_b += tl.load(p_c + C, m_out, other=0.0).to(tl.float32)
    o_out = o_m.to(tl.int64)[:, None] * C + o_n[None, :]
    if GATE:
        if p_out.dtype.element_ty == tl.float32:
            b_sigmoid = tl.sigmoid(b_b)
            b_a = tanh(b_a) * b_sigmoid
        else:
            b_sigmoid = sigmoid_of_16_bits(b_b)
            b_a = tanh_of_16_bits(b_a) * b_sigmoid
        if WITH_SIGMOID:
            tl.store(p_sigmoid + o_out, b_sigmoid.to(p_sigmoid.dtype.element_ty), m_out)
    else:
        b_a = activate(b_a, ACTIVATION)
    tl.store(p_out + o_out, b_a.to(p_out.dtype.element_ty), m_out)


@triton.jit
def masked_conv_forward_kernel(
    p_x,
    p_weight,
    p_bias,
    p_cond,
    p_out,
    p_sigmoid,
    pixels,
    H,
    W,
    C_in,
    C,
    T,
    ACTIVATION: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    COND: tl.constexpr,
    WITH_SIGMOID: tl.constexpr,
    PER_TAP: tl.constexpr,
    RASTER: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    P = 2 * C if ACTIVATION == "gate" else C
    conv_block(
        tl.program_id(0), p_x, p_weight, p_bias, p_cond, p_out, p_sigmoid, pixels, H, W, C_in, C, T, C_in * P, P, 1,
        1, ACTIVATION, HAS_BIAS, COND, WITH_SIGMOID, PER_TAP, RASTER, PRECISION, BM, BN, BK,
    )  # fmt: skip


def blocks(x: Tensor | launch.Like, channels: int, n_taps: int, *, mirrored: bool) -> launch.Config:
    """Block sizes for a convolution of x to so many channels, and how many blocks of K a tap has.

    ``mirrored``: its transpose, the gradient of x.
    """
    batch, in_channels, height, width = x.shape
    config = launch.config("masked_conv", x, in_channels, channels)
    config["BM"] = launch.shrunk(config["BM"], batch * height * width)
    n_blocks = launch.cdiv(channels, config["BN"])
    if mirrored and x.dtype != torch.float32 and n_blocks % 2 == 0:
        config["BN"] *= 2  # as many columns as a gate's, and the gradient is read half as often
    config["BN"] = launch.shrunk(config["BN"], channels)
    config["BK"] = launch.shrunk(config["BK"], in_channels * (n_taps if in_channels < FLAT_BELOW else 1))
    return config | {"PER_TAP": blocks_per_tap(in_channels, config["BK"])}


class Plan(NamedTuple):
    """A convolution before its tensors are known."""

    out: launch.New
    packed: launch.New  # the weights
    places: Tensor
    pack: launch.Launch | None  # None where there is nothing to pack
    conv: launch.Launch | None  # None where there is nothing to compute


@planned
def _plan(
    live: Live,
    x_shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    weight_shape: tuple[int, ...],
    weight_strides: tuple[int, ...],
    has_bias: bool,
    cond_dim: int,  # 0: none
    activation: str,
    with_sigmoid: bool,
    precision: str,
) -> Plan:
    x, (batch, in_channels, height, width), columns = launch.Like(x_shape, dtype, device), x_shape, weight_shape[0]
    channels, pixels = columns // 2 if activation == "gate" else columns, batch * height * width
    config = blocks(x, channels, len(live), mirrored=False)
    conv = launch.prepared(
        masked_conv_forward_kernel,
        (launch.cdiv(pixels, config["BM"]) * launch.cdiv(channels, config["BN"]),),
        pixels=pixels,
        H=height,
        W=width,
        C_in=in_channels,
        C=channels,
        T=len(live),
        ACTIVATION=activation,
        HAS_BIAS=has_bias,
        COND={0: "none", 2: "vector", 4: "map"}[cond_dim],
        WITH_SIGMOID=with_sigmoid,
        RASTER=live.raster,
        PRECISION=precision,
        **config,
    )
    packs = pack(live, weight_shape, weight_strides, paired=activation == "gate")
    computes = pixels * channels > 0
    return Plan(
        launch.memory((batch, channels, height, width), x, images=True),
        launch.memory((len(live), in_channels, columns), x),
        places(live.taps, device),
        packs if computes and len(live) * in_channels else None,
        conv if computes else None,
    )


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cond: Tensor | None,
    live: Live,
    activation: str,
    with_sigmoid: bool,
) -> tuple[Tensor, Tensor | None]:
    """Output ``[B, C, H, W]`` and, with ``with_sigmoid``, the sigmoid of the gate.

    Args:
        x: ``[B, C_in, H, W]``. weight: ``[P, C_in, k, k]``, any strides. bias: ``[P]``, contiguous.
        cond: ``[B, P]``, contiguous, or ``[B, P, H, W]``.
    """
    plan = _plan(
        live, x.shape, x.dtype, x.device, weight.shape, weight.stride(), bias is not None,
        0 if cond is None else cond.dim(), activation, with_sigmoid, launch.conv_precision(x.dtype),
    )  # fmt: skip
    out, sigmoid = plan.out(), plan.out() if with_sigmoid else None
    if plan.conv is not None:
        packed = plan.packed()
        if plan.pack is not None:
            plan.pack(weight, plan.places, live.centre, packed)
        plan.conv(x, packed, bias, cond, out, sigmoid)
    return out, sigmoid
