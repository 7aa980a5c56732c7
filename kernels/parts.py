"""The last step of a sum that several programs share: parts are added in order, so the result is always the same."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from vlae_fast.kept import planned

from . import launch

BLOCK = 4096  # elements in registers; a thread adds several parts where one block does not hold them all


@triton.jit
def add_block(i_group, i_n, p_parts, p_sum, parts, N, BP: tl.constexpr, BN: tl.constexpr):
    """Columns of block i_n of the sum of a group's parts."""
    i_group = i_group.to(tl.int64)
    o_n = i_n * BN + tl.arange(0, BN)
    p_block = p_parts + i_group * parts * N + o_n[None, :]
    b_sum = tl.zeros([BP, BN], tl.float32)
    for i_part in range(0, parts, BP):
        o_p = i_part + tl.arange(0, BP)
        m_parts = (o_p < parts)[:, None] & (o_n < N)[None, :]
        b_sum += tl.load(p_block + o_p.to(tl.int64)[:, None] * N, m_parts, other=0.0)  # [BP, BN]
    tl.store(p_sum + i_group * N + o_n, tl.sum(b_sum, 0).to(p_sum.dtype.element_ty), o_n < N)


@triton.jit
def parts_add_kernel(p_parts, p_sum, parts, N, BP: tl.constexpr, BN: tl.constexpr):
    add_block(tl.program_id(0), tl.program_id(1), p_parts, p_sum, parts, N, BP, BN)


def blocks_of_parts(parts: int, n: int) -> tuple[int, int]:
    """BP and BN for so many parts of n columns."""
    block_p = launch.shrunk(256, parts, least=1)
    return block_p, launch.shrunk(BLOCK // block_p, n)


class Plan(NamedTuple):
    """A sum before its parts are known."""

    sum: launch.New
    add: launch.Launch | None  # None of nothing


@planned
def _plan(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Plan:
    *groups, parts, n = shape
    block_p, block_n = blocks_of_parts(parts, n)
    grid = (prod(groups), launch.cdiv(n, block_n))
    return Plan(
        launch.memory((*groups, n), launch.Like(shape, dtype, device)),
        launch.prepared(parts_add_kernel, grid, parts=parts, N=n, BP=block_p, BN=block_n)
        if all((*groups, n))
        else None,
    )


def add_parts(parts: Tensor, dtype: torch.dtype) -> Tensor:
    """Sums ``parts [parts, N]``, or ``[groups, parts, N]``, float32, contiguous, to ``[N]``, or ``[groups, N]``."""
    plan = _plan(parts.shape, dtype, parts.device)
    out = plan.sum()
    if plan.add is not None:
        plan.add(parts, out)
    return out
