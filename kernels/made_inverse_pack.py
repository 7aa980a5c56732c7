"""The weights of a MADE in the order in which `made_inverse` reads them."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from . import made_plan

ROW = tl.constexpr(made_plan.ROW)


@triton.jit
def made_inverse_pack_kernel(
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

    Weights that the row does not see become 0: dead weights are not read, they may be anything.
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
    m_live = (o_s < readable) & (tl.load(p_slot) == layer)
    tl.store(p_packed + o_s, tl.load(p_weight + tl.load(p_slot + 1), m_live, other=0.0))
    for k in range(0, whole, BLOCK):
        o_k = k + tl.arange(0, BLOCK)
        o_unit = tl.load(p_order + o_k, o_k < count, other=0)
        tl.store(p_packed + S + o_k, tl.load(p_weight + o_unit, o_k < count, other=0.0), o_k < whole)


def pack(flat: Tensor, plan: made_plan.Plan, slots: int) -> Tensor:
    """``[rows, S + K]`` of all weights and biases ``flat``, K that of the longest row."""
    n_rows, width = len(plan.rows), slots + plan.widest
    packed = flat.new_empty(n_rows, width)
    made_inverse_pack_kernel[(n_rows,)](flat, plan.rows, plan.slots, plan.order, packed, width, slots, 256, num_warps=2)
    return packed
