"""The inverse of a MADE in one launch: a program walks all D dimensions for a tile of samples. See `made_plan`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import launch, made_plan
from .activate import activate
from .dot import dot

ROW = tl.constexpr(made_plan.ROW)


@triton.jit
def pack_kernel(
    p_flat,
    p_rows,
    p_slots,
    p_order,
    p_packed,
    width,
    S: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A row of weights in the order in which its inputs are known: S slots of its own block, then the blocks before.

    What the row does not see becomes 0: dead weights are not read, they may be anything.
    """
    i_row = tl.program_id(0).to(tl.int64)
    p_row = p_rows + i_row * ROW
    p_weight = p_flat + tl.load(p_row)
    p_order += tl.load(p_row + 1)
    count = tl.load(p_row + 2)
    whole = tl.load(p_row + 3)
    first_slot, readable = tl.load(p_row + 4), tl.load(p_row + 5)
    layer = tl.load(p_row + 6)
    p_packed += i_row * width

    o_s = tl.arange(0, S)
    p_slot = p_slots + (first_slot + o_s) * 3
    live = (o_s < readable) & (tl.load(p_slot) == layer)
    tl.store(p_packed + o_s, tl.load(p_weight + tl.load(p_slot + 1), live, other=0.0))
    for k in range(0, whole, BLOCK):
        o_k = k + tl.arange(0, BLOCK)
        unit = tl.load(p_order + o_k, o_k < count, other=0)
        tl.store(p_packed + S + o_k, tl.load(p_weight + unit, o_k < count, other=0.0), o_k < whole)


@triton.jit
def base(
    p_flat,
    p_cond,
    p_packed,
    p_known,
    p_base,
    p_rows,
    p_job,
    first_row,
    n_m,
    width,
    KNOWN,
    H,
    HAS_COND: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    S: tl.constexpr,
):
    """A job: bias, cond and all products with the blocks before, of BN rows of a layer. Every weight is read once."""
    SCALAR: tl.constexpr = PRECISION == "ieee" and p_known.dtype.element_ty == tl.float32
    M: tl.constexpr = BM if SCALAR or BM > 16 else 16  # a matrix instruction wants 16 rows
    o_m, o_n, o_k = tl.arange(0, M), tl.arange(0, BN), tl.arange(0, BK)
    K = tl.load(p_job)
    row = tl.load(p_job + 2 + o_n)
    m_n = row >= 0
    row = tl.maximum(row, 0)
    p_row = p_rows + row * ROW
    acc = tl.zeros([M, BN], tl.float32)
    acc += tl.load(p_flat + tl.load(p_row + 7)).to(tl.float32)[None, :]
    if HAS_COND:
        unit = tl.load(p_row + 8)
        m_c = (o_m < n_m)[:, None] & (unit >= 0)[None, :]
        acc += tl.load(p_cond + o_m[:, None] * H + unit[None, :], m_c, other=0.0).to(tl.float32)
    p_a = p_known + tl.multiple_of(tl.load(p_job + 1), 16) + o_m[:, None] * KNOWN + o_k[None, :]
    p_w = p_packed + S + row.to(tl.int64)[:, None] * width + o_k[None, :]
    for k in range(0, K, BK):
        b_a = tl.load(p_a + k, (o_m < BM)[:, None], other=0.0)  # [M, BK]
        b_w = tl.load(p_w + k)  # [BN, BK]
        acc = dot(b_a, tl.trans(b_w), acc, PRECISION)
    tl.store(p_base + (row - first_row)[None, :] * BM + o_m[:, None], acc, (o_m < BM)[:, None] & m_n[None, :])


@triton.jit
def log_slope(raw, SCALE: tl.constexpr):
    """``log(d eps / d x)`` of the transforms that are no "exp", whose slope is at least 0.001."""
    if SCALE == "clipped_exp":
        return raw / (1 + tl.abs(raw) / 6.907755278982137)  # log(1000)
    if SCALE == "softplus":
        tail = tl.exp(-tl.abs(raw))
        one = 1 + tail  # log1p(tail), also where 1 + tail rounds
        slope = tl.maximum(raw, 0.0) + tl.where(one > 1, tl.log(one) * tail / tl.maximum(one - 1, 1e-10), tail)
    else:
        slope = tl.sigmoid(raw + 2)
    return tl.log(slope + 0.001)


@triton.jit
def record(p_event):
    """Rows, slot and dimension of an event."""
    return tl.load(p_event), tl.load(p_event + 1), tl.load(p_event + 2), tl.load(p_event + 3)


@triton.jit
def fetch(p_eps, p_packed, p_base, event, n_m, D, width, BM: tl.constexpr, S: tl.constexpr):
    """What an event needs that others do not give: weights of its two rows, their bases, eps of its dimension."""
    o_m, o_s = tl.arange(0, BM), tl.arange(0, S)
    p_w = p_packed + tl.zeros([BM, 1], tl.int32) + o_s[None, :]  # laid out like the tile that it will meet
    b_w = tl.load(p_w + event[0].to(tl.int64) * width)  # [BM, S]
    b_w2 = tl.load(p_w + event[1].to(tl.int64) * width)
    b_base = tl.load(p_base + event[0] * BM + o_m)  # [BM]
    b_base2 = tl.load(p_base + event[1] * BM + o_m)
    b_eps = tl.load(p_eps + o_m * D + tl.maximum(event[3], 0), o_m < n_m, other=0.0).to(tl.float32)
    return b_w, b_w2, b_base, b_base2, b_eps


@triton.jit
def inverse_kernel(
    p_eps,
    p_flat,
    p_cond,
    p_packed,
    p_x,
    p_log_det,
    p_known,
    p_base,
    p_blocks,
    p_events,
    p_rows,
    p_jobs,
    p_slots,
    batch,
    n_blocks,
    D,
    H,
    KNOWN,
    bases,
    width,
    HAS_COND: tl.constexpr,
    AFFINE: tl.constexpr,
    ACTIVATION: tl.constexpr,
    SCALE: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    S: tl.constexpr,
):
    """A program owns BM samples and all that it keeps of them.

    The chain of events stays in registers and inside a warp: the S slots of a sample are in the lanes of one warp, and
    the weights of the next event are fetched during this one.
    """
    i_m = tl.program_id(0).to(tl.int64)
    o_m, o_s = tl.arange(0, BM), tl.arange(0, S)
    n_m = tl.minimum(batch - i_m * BM, BM).to(tl.int32)
    p_eps += i_m * BM * D
    p_x += i_m * BM * D
    if HAS_COND:
        p_cond += i_m * BM * H
    p_known += i_m * BM * KNOWN
    p_base += i_m * BM * bases
    log_det = tl.zeros([BM], tl.float32)
    lost = tl.zeros([BM], tl.float32)
    for i_block in range(n_blocks):
        p_block = p_blocks + i_block * 3
        first_row = tl.load(p_block + 1)
        for i_job in range(tl.load(p_block + 2), tl.load(p_block + 5)):
            p_job = p_jobs + i_job * (2 + BN)
            base(p_flat, p_cond, p_packed, p_known, p_base, p_rows, p_job, first_row, n_m, width, KNOWN, H,
                 HAS_COND, PRECISION, BM, BN, BK, S)  # fmt: skip
        tl.debug_barrier()  # other threads have written what this one reads

        p_of_block = p_base - first_row.to(tl.int64) * BM  # its first row is at p_base
        first, last = tl.load(p_block), tl.load(p_block + 3)
        event, following = record(p_events + first * 4), record(p_events + first * 4 + 4)
        fetched = fetch(p_eps, p_packed, p_of_block, event, n_m, D, width, BM, S)
        h = tl.zeros([BM, S], tl.float32)
        for i_event in range(first, last):
            after = record(p_events + i_event * 4 + 8)
            ahead = fetch(p_eps, p_packed, p_of_block, following, n_m, D, width, BM, S)
            a = tl.sum(h * fetched[0].to(tl.float32), 1) + fetched[2]  # [BM]
            b = tl.sum(h * fetched[1].to(tl.float32), 1) + fetched[3]
            row, other, slot, dimension = event
            if dimension >= 0:
                x = a + fetched[4]
                if AFFINE:
                    if SCALE == "exp":
                        x = a + tl.exp(b) * fetched[4]
                        log = -b
                    else:
                        log = log_slope(b, SCALE)
                        x = (fetched[4] - a) * tl.exp(-log)
                    term = log - lost  # summed with the rounding error carried along (Kahan)
                    total = log_det + term
                    lost = (total - log_det) - term
                    log_det = total
                a = x.to(p_x.dtype.element_ty).to(tl.float32)  # what is returned is what the others see
            else:
                a = activate(a, ACTIVATION)
                b = activate(b, ACTIVATION)
                h = tl.where(o_s[None, :] == slot + other - row, b[:, None], h)
            h = tl.where(o_s[None, :] == slot, a[:, None], h)
            event, following, fetched = following, after, ahead
        p_slot = p_slots + (i_block * S + o_s) * 3
        layer, unit, place = tl.load(p_slot), tl.load(p_slot + 1), tl.load(p_slot + 2)
        h = h.to(p_x.dtype.element_ty)
        tl.store(p_x + o_m[:, None] * D + unit[None, :], h, (o_m < n_m)[:, None] & (layer == 0)[None, :])
        tl.store(p_known + o_m[:, None] * KNOWN + place[None, :], h, (layer >= 0)[None, :])
        tl.debug_barrier()
    tl.store(p_log_det + i_m * BM + o_m, log_det.to(p_log_det.dtype.element_ty), o_m < n_m)


def forward(
    eps: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    degrees: Sequence[Tensor],
    cond: Tensor | None,
    activation: str,
    scale: str = "exp",
) -> tuple[Tensor, Tensor]:
    """x and log_det of the op `made_inverse`; eps and cond contiguous.

    Raises:
        ValueError: degrees break the rule of the op; found in the first call with them.
    """
    batch, dim = eps.shape
    config = launch.config("made_inverse", eps, dim, *(len(d) for d in degrees[1:-1]))
    hidden = sum(len(d) for d in degrees[1:-1])
    config["S"] = launch.shrunk(config["S"], dim + hidden)
    plan = made_plan.plan_of(degrees, config["S"], config["BN"], config["BK"], eps.device)
    x, log_det = torch.empty_like(eps), eps.new_empty(batch)
    if batch == 0:
        return x, log_det
    flat = torch.cat([t.reshape(-1) for t in (*weights, *biases)])
    n_rows, width = len(plan.rows), config["S"] + plan.widest
    packed = eps.new_empty(n_rows, width)
    pack_kernel[(n_rows,)](flat, plan.rows, plan.slots, plan.order, packed, width, config["S"], 256, num_warps=2)
    programs = launch.cdiv(batch, config["BM"])
    # zeros: whole blocks of K are multiplied, and what is not yet known has weights of 0
    known = eps.new_zeros(programs * config["BM"], plan.known)
    bases = eps.new_empty(programs, plan.bases, config["BM"], dtype=torch.float32)
    inverse_kernel[(programs,)](
        eps,
        flat,
        cond,
        packed,
        x,
        log_det,
        known,
        bases,
        plan.blocks,
        plan.events,
        plan.rows,
        plan.jobs,
        plan.slots,
        batch,
        len(plan.blocks) - 1,
        dim,
        weights[0].shape[0],
        plan.known,
        plan.bases,
        width,
        HAS_COND=cond is not None,
        AFFINE=len(degrees[-1]) > dim,
        ACTIVATION=activation,
        SCALE=scale,
        PRECISION=launch.matmul_precision(eps.dtype),
        **config,
    )
    return x, log_det
