"""The last step of a sum that several programs share: parts are added in order, so the result is always the same."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

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


def add_parts(parts: Tensor, dtype: torch.dtype) -> Tensor:
    """Sums ``parts [groups, parts, N]``, float32, contiguous, to ``[groups, N]``."""
    groups, n_parts, n = parts.shape
    out = parts.new_empty(groups, n, dtype=dtype)
    block_p, block_n = blocks_of_parts(n_parts, n)
    if out.numel():
        parts_add_kernel[(groups, launch.cdiv(n, block_n))](parts, out, n_parts, n, block_p, block_n)
    return out
