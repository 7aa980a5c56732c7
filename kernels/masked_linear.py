"""Masked linear layers: matrix products that never load a tile which the mask leaves empty.

x is ``[B, I]``, the weight ``[O, I]``, both contiguous. Tiles of the weight are full, partial or empty: a program walks
its full tiles first, straight from shared memory to the matrix instruction, then the few partial ones, whose dead
entries it replaces by zeros on the way.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from vlae_fast.kept import planned

from . import launch
from .activate import activate, times_slope
from .dot import dot
from .live_tiles import Mask

# They fill a GPU, where a product has as many blocks. Fixed, so that the order of sums does not depend on the device.
PROGRAMS = 128


@triton.jit
def alive(p_mask, o_out, o_in, OUT, IN, ADJACENCY: tl.constexpr):
    """The mask at outputs o_out and inputs o_in, which broadcast; False out of bounds."""
    m_inside = (o_out < OUT) & (o_in < IN)
    if ADJACENCY:
        return tl.load(p_mask + o_out.to(tl.int64) * IN + o_in, m_inside, other=0) != 0
    else:
        b_rank = tl.load(p_mask + o_out, o_out < OUT, other=0)
        return m_inside & (b_rank > tl.load(p_mask + OUT + o_in, o_in < IN, other=0))


@triton.jit
def walk(
    b_y,
    first,
    last,
    p_x,
    p_weight,
    p_mask,
    i_m,
    i_n,
    B,
    N,
    K,
    MASKED: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    ADJACENCY: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """b_y ``[BM, BN]`` plus the products of tiles first to last - 1 of K. Without MASKED they are full."""
    o_m, o_n, o_block = tl.arange(0, BM), tl.arange(0, BN), tl.arange(0, BK)
    # offsets within a block of rows fit 32 bits, their bases need 64
    p_x += i_m.to(tl.int64) * BM * K
    p_weight += i_n.to(tl.int64) * BN * (1 if TRANSPOSED else K)
    o_x = o_m[:, None] * K + o_block[None, :]
    o_w = o_block[:, None] * N + o_n[None, :] if TRANSPOSED else o_block[:, None] + o_n[None, :] * K
    o_n += i_n * BN
    m_m, m_n = (o_m < B - i_m * BM)[:, None], (o_n < N)[None, :]
    for i_k in range(first, last):
        p_tile = p_weight + tl.cast(i_k, tl.int64) * BK * (N if TRANSPOSED else 1)
        if MASKED:
            o_k = i_k * BK + o_block
            b_x = tl.load(p_x + i_k * BK + o_x, m_m & (o_k < K)[None, :], other=0.0)  # [BM, BK]
            b_w = tl.load(p_tile + o_w, m_n & (o_k < K)[:, None], other=0.0)  # [BK, BN]
            if TRANSPOSED:
                m_live = alive(p_mask, o_k[:, None], o_n[None, :], K, N, ADJACENCY)
            else:
                m_live = alive(p_mask, o_n[None, :], o_k[:, None], N, K, ADJACENCY)
            b_w = tl.where(m_live, b_w, 0.0)
        else:
            b_x = tl.load(p_x + i_k * BK + o_x, m_m, other=0.0)  # [BM, BK]
            b_w = tl.load(p_tile + o_w, m_n, other=0.0)  # [BK, BN]
        b_y = dot(b_x, b_w, b_y, PRECISION)
    return b_y


@triton.jit
def product_block(
    i_m,
    p_walk,
    p_x,
    p_weight,
    p_bias,
    p_cond,
    p_mask,
    p_y,
    p_out,
    p_sums,
    B,
    N,
    K,
    TRANSPOSED: tl.constexpr,
    ADJACENCY: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """Block i_m of the rows of y, of the columns of a walk: act( products + bias + cond ), cond ``[B, N]`` or None.

    With p_out, outputs of the activation, ``[B, N]``, its slope times the products, and their sums by column.
    """
    i_n, full_runs, runs = tl.load(p_walk), tl.load(p_walk + 1), tl.load(p_walk + 2)
    b_y = tl.zeros([BM, BN], tl.float32)
    for i_run in range(full_runs):
        begin, end = tl.load(p_walk + 3 + 2 * i_run), tl.load(p_walk + 4 + 2 * i_run)
        b_y = walk(
            b_y, begin, end, p_x, p_weight, p_mask, i_m, i_n, B, N, K,
            False, TRANSPOSED, ADJACENCY, PRECISION, BM, BN, BK,
        )  # fmt: skip
    # A partial tile passes through registers to be masked: in steps half as long it needs half of them, beside many
    # outputs in the shortest.
    STEPS: tl.constexpr = BK // 16 if BM * BN >= 128 * 128 else 2 if BK > 16 else 1
    for i_run in range(full_runs, runs):
        begin, end = tl.load(p_walk + 3 + 2 * i_run) * STEPS, tl.load(p_walk + 4 + 2 * i_run) * STEPS
        b_y = walk(
            b_y, begin, end, p_x, p_weight, p_mask, i_m, i_n, B, N, K,
            True, TRANSPOSED, ADJACENCY, PRECISION, BM, BN, BK // STEPS,
        )  # fmt: skip
    o_m, o_n = tl.arange(0, BM), i_n * BN + tl.arange(0, BN)
    m_n = o_n < N
    if p_bias is not None:
        b_y += tl.load(p_bias + o_n, m_n, other=0.0).to(tl.float32)[None, :]
    p_y += i_m.to(tl.int64) * BM * N
    o_y, m_y = o_m[:, None] * N + o_n[None, :], (o_m < B - i_m * BM)[:, None] & m_n[None, :]
    if p_cond is not None:
        b_y += tl.load(p_cond + i_m.to(tl.int64) * BM * N + o_y, m_y, other=0.0).to(tl.float32)
    if p_out is None:
        b_y = activate(b_y, ACTIVATION)
    else:
        b_out = tl.load(p_out + i_m.to(tl.int64) * BM * N + o_y, m_y, other=0.0).to(tl.float32)
        b_y = times_slope(b_y, b_out, ACTIVATION)
        tl.store(p_sums + o_n, tl.sum(b_y, 0), m_n)
    tl.store(p_y + o_y, b_y.to(p_y.dtype.element_ty), m_y)


@triton.jit
def product(
    i_program,
    p_x,
    p_weight,
    p_bias,
    p_mask,
    p_walks,
    p_y,
    p_out,
    p_sums,  # a row for each block of rows
    B,
    N,
    K,
    TRANSPOSED: tl.constexpr,  # the weight is [K, N]: outputs and inputs change places, as for the gradient of x
    ADJACENCY: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
):
    """y ``[B, N]`` = act( x ``[B, K]`` (W * M)^T + bias ): a program computes BM x BN of it, in steps of BK.

    p_out, p_sums: as in `product_block`.

    Programs with the longest walks start first, and the short ones fill the gaps at the end. GROUP blocks of rows go
    through all columns before the next ones do, so that x stays in the L2 cache.
    """
    columns = tl.cdiv(N, BN)
    first = i_program // (GROUP * columns) * GROUP
    height = tl.minimum(tl.cdiv(B, BM) - first, GROUP)
    i_group = i_program % (GROUP * columns)
    p_walk = p_walks + i_group // height * (3 + 2 * tl.cdiv(K, BK))
    i_m = first + i_group % height
    p_row = None if p_sums is None else p_sums + i_m.to(tl.int64) * N
    product_block(
        i_m, p_walk, p_x, p_weight, p_bias, None, p_mask, p_y, p_out, p_row, B, N, K,
        TRANSPOSED, ADJACENCY, ACTIVATION, PRECISION, BM, BN, BK,
    )  # fmt: skip


@triton.jit(do_not_specialize=["B"])  # another batch, the same binary
def masked_linear_forward_kernel(
    p_x,
    p_weight,
    p_bias,
    p_mask,
    p_walks,
    p_y,
    B,
    OUT,
    IN,
    ADJACENCY: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
):
    product(
        tl.program_id(0), p_x, p_weight, p_bias, p_mask, p_walks, p_y, None, None, B, OUT, IN,
        False, ADJACENCY, ACTIVATION, PRECISION, BM, BN, BK, GROUP,
    )  # fmt: skip


def blocks_of(kernel: str, weight: launch.Like, batch: int, *, transposed: bool) -> launch.Config:
    """Block sizes of one product ``[batch, K] x [K, N]``.

    A tile wider than an eighth of the layer would compute too many dead products. A block with more rows would leave
    fewer than `PROGRAMS` programs.
    """
    config = launch.config(kernel, weight, *weight.shape)
    n, k = reversed(weight.shape) if transposed else weight.shape
    config["BN"] = launch.shrunk(config["BN"], launch.cdiv(n, 8))
    config["BK"] = launch.shrunk(config["BK"], launch.cdiv(k, 8))
    config["BM"] = launch.shrunk(config["BM"], launch.cdiv(batch * launch.cdiv(n, config["BN"]), PROGRAMS))
    return config


class Plan(NamedTuple):
    """A layer before its tensors are known."""

    y: launch.New
    blocks: tuple[int, int]  # of outputs and inputs
    launch: launch.Launch | None  # None where there is nothing to compute


@planned
def _plan(
    batch: int,
    weight_shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    is_adjacency: bool,
    activation: str,
    precision: str,
) -> Plan:
    weight, (outputs, inputs) = launch.Like(weight_shape, dtype, device), weight_shape
    config = blocks_of("masked_linear", weight, batch, transposed=False)
    # A thread has 32 outputs at least; 16 in float32, for 32 of a tile of 32 rows spill. A warp group has 4 warps.
    least = 16 if dtype == torch.float32 else 32
    launch.limit_warps(config, max(4, config["BM"] * config["BN"] // (32 * least)))
    computes = launch.prepared(
        masked_linear_forward_kernel,
        (launch.cdiv(batch, config["BM"]) * launch.cdiv(outputs, config["BN"]),),
        B=batch,
        OUT=outputs,
        IN=inputs,
        ADJACENCY=is_adjacency,
        ACTIVATION=activation,
        PRECISION=precision,
        **config,
    )
    blocks = config["BN"], config["BK"]
    return Plan(launch.memory((batch, outputs), weight), blocks, computes if batch * outputs else None)


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, mask: Mask, activation: str) -> Tensor:
    """Output ``[B, O]`` for x ``[B, I]``, weight ``[O, I]`` and bias ``[O]``, all contiguous."""
    dtype = x.dtype
    precision = launch.matmul_precision(dtype)
    plan = _plan(x.shape[0], weight.shape, dtype, x.device, mask.is_adjacency, activation, precision)
    y = plan.y()
    if plan.launch is not None:
        plan.launch(x, weight, bias, mask.data(), mask.walks(*plan.blocks), y)
    return y
