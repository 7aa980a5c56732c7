"""The inverse of a MADE in one launch: a program walks all D dimensions for a tile of samples. See `made_plan`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import launch, made_plan
from .dot import dot
from .made_inverse_pack import ROW, pack
from .made_inverse_walk import walk


@triton.jit
def run_job(
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
    """Writes the bases of BN rows of a layer: bias, cond and all products with the blocks before.

    Every weight is read once.
    """
    SCALAR: tl.constexpr = PRECISION == "ieee" and p_known.dtype.element_ty == tl.float32
    M: tl.constexpr = BM if SCALAR or BM > 16 else 16  # a matrix instruction wants 16 rows
    o_m, o_n, o_k = tl.arange(0, M), tl.arange(0, BN), tl.arange(0, BK)
    K = tl.load(p_job)
    o_row = tl.load(p_job + 2 + o_n)
    m_n = o_row >= 0
    o_row = tl.maximum(o_row, 0)
    p_row = p_rows + o_row * ROW
    b_base = tl.zeros([M, BN], tl.float32)
    b_base += tl.load(p_flat + tl.load(p_row + 7)).to(tl.float32)[None, :]
    if HAS_COND:
        o_unit = tl.load(p_row + 8)
        m_cond = (o_m < n_m)[:, None] & (o_unit >= 0)[None, :]
        b_base += tl.load(p_cond + o_m[:, None] * H + o_unit[None, :], m_cond, other=0.0).to(tl.float32)
    p_k = p_known + tl.multiple_of(tl.load(p_job + 1), 16) + o_m[:, None] * KNOWN + o_k[None, :]
    p_w = p_packed + S + o_row.to(tl.int64)[:, None] * width + o_k[None, :]
    for k in range(0, K, BK):
        b_known = tl.load(p_k + k, (o_m < BM)[:, None], other=0.0)  # [M, BK]
        b_w = tl.load(p_w + k)  # [BN, BK]
        b_base = dot(b_known, tl.trans(b_w), b_base, PRECISION)
    tl.store(p_base + (o_row - first_row)[None, :] * BM + o_m[:, None], b_base, (o_m < BM)[:, None] & m_n[None, :])


@triton.jit
def made_inverse_walk_kernel(
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
    """A program owns BM samples and all memory kept for them.

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
    b_log_det = tl.zeros([BM], tl.float32)
    b_lost = tl.zeros([BM], tl.float32)
    for i_block in range(n_blocks):
        p_block = p_blocks + i_block * 3
        first_row = tl.load(p_block + 1)
        for i_job in range(tl.load(p_block + 2), tl.load(p_block + 5)):
            p_job = p_jobs + i_job * (2 + BN)
            run_job(p_flat, p_cond, p_packed, p_known, p_base, p_rows, p_job, first_row, n_m, width, KNOWN, H,
                    HAS_COND, PRECISION, BM, BN, BK, S)  # fmt: skip
        tl.debug_barrier()  # other threads have written what this one reads

        p_of_block = p_base - first_row.to(tl.int64) * BM  # its first row is at p_base
        b_h, b_log_det, b_lost = walk(
            p_eps, p_packed, p_of_block, p_events, tl.load(p_block), tl.load(p_block + 3), n_m, D, width,
            b_log_det, b_lost, p_x.dtype.element_ty, AFFINE, ACTIVATION, SCALE, BM, S,
        )  # fmt: skip
        p_slot = p_slots + (i_block * S + o_s) * 3
        o_layer, o_unit, o_place = tl.load(p_slot), tl.load(p_slot + 1), tl.load(p_slot + 2)
        b_h = b_h.to(p_x.dtype.element_ty)  # [BM, S]
        tl.store(p_x + o_m[:, None] * D + o_unit[None, :], b_h, (o_m < n_m)[:, None] & (o_layer == 0)[None, :])
        tl.store(p_known + o_m[:, None] * KNOWN + o_place[None, :], b_h, (o_layer >= 0)[None, :])
        tl.debug_barrier()
    tl.store(p_log_det + i_m * BM + o_m, b_log_det.to(p_log_det.dtype.element_ty), o_m < n_m)


def inverse(
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
    packed = pack(flat, plan, config["S"])
    programs = launch.cdiv(batch, config["BM"])
    # zeros: whole blocks of K are multiplied, and values not yet known have weights of 0
    known = eps.new_zeros(programs * config["BM"], plan.known)
    bases = eps.new_empty(programs, plan.bases, config["BM"], dtype=torch.float32)
    made_inverse_walk_kernel[(programs,)](
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
        packed.shape[1],
        HAS_COND=cond is not None,
        AFFINE=len(degrees[-1]) > dim,
        ACTIVATION=activation,
        SCALE=scale,
        PRECISION=launch.matmul_precision(eps.dtype),
        **config,
    )
    return x, log_det
