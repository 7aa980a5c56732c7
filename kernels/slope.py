"""Backward of an activation: the gradient of the pre-activation and its sums, in one pass. Of all families."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import launch

PROGRAMS = 1024  # enough to fill any GPU a few times over; fixed, for the order of the sums must not hang on the device


@triton.jit
def slope_kernel(
    p_grad,
    p_out,
    p_sigmoid,
    p_pre,
    p_sums,
    rows,  # of an image
    rows_per_chunk,
    chunks,  # of an image
    C,
    ACTIVATION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    """BN channels of a chunk of rows a program: each tensor is read or written once, the sums stay in registers."""
    i_chunk, i_n = tl.program_id(0), tl.program_id(1)
    GATE: tl.constexpr = ACTIVATION == "gate"
    columns = 2 * C if GATE else C
    o_n = i_n * BN + tl.arange(0, BN)
    first = (i_chunk // chunks).to(tl.int64) * rows
    begin = (i_chunk % chunks) * rows_per_chunk
    end = tl.minimum(begin + rows_per_chunk, rows)
    sum_a = tl.zeros([BM, BN], tl.float32)
    sum_b = tl.zeros([BM, BN], tl.float32)
    for row in range(begin, end, BM):
        o_m = row + tl.arange(0, BM)
        mask = (o_m < end)[:, None] & (o_n < C)[None, :]
        at = (first + o_m)[:, None] * C + o_n[None, :]
        to = (first + o_m)[:, None] * columns + o_n[None, :]
        grad = tl.load(p_grad + at, mask, other=0.0).to(tl.float32)  # [BM, BN]
        if ACTIVATION == "none":
            a = grad
        else:
            out = tl.load(p_out + at, mask, other=0.0).to(tl.float32)
            if GATE:  # out = tanh * sigmoid
                sigmoid = tl.load(p_sigmoid + at, mask, other=1.0).to(tl.float32)
                tanh = out / tl.where(sigmoid == 0, 1.0, sigmoid)
                a = grad * sigmoid * tl.maximum(1.0 - tanh * tanh, 0.0)  # both were rounded: tanh may pass 1
                b = grad * out * (1.0 - sigmoid)
                sum_b += b
                tl.store(p_pre + to + C, b.to(p_pre.dtype.element_ty), mask)
            elif ACTIVATION == "relu":
                a = tl.where(out > 0, grad, grad * 0.0)  # a NaN stays one: who looks at gradients must see it
            elif ACTIVATION == "elu":
                a = tl.where(out > 0, grad, grad * (out + 1.0))
            else:
                tl.static_assert(ACTIVATION == "tanh")
                a = grad * (1.0 - out * out)
            tl.store(p_pre + to, a.to(p_pre.dtype.element_ty), mask)
        sum_a += a
    p_sum = p_sums + i_chunk.to(tl.int64) * columns + o_n
    tl.store(p_sum, tl.sum(sum_a, 0), o_n < C)
    if GATE:
        tl.store(p_sum + C, tl.sum(sum_b, 0), o_n < C)


def slope(
    grad: Tensor, out: Tensor | None, sigmoid: Tensor | None, activation: str, images: int
) -> tuple[Tensor, Tensor]:
    """Gradient of the pre-activation ``[..., C']`` and its sums ``[images, chunks, C']`` in float32.

    Args:
        grad, out, sigmoid: ``[..., C]``, contiguous; the leading dimensions split evenly into ``images``.
            ``out`` is the activation's output, ``sigmoid`` that of the gate; None where the activation needs none.
    """
    channels = grad.shape[-1]
    columns, rows = channels * (2 if activation == "gate" else 1), grad.numel() // max(channels * images, 1)
    blocks = launch.config("slope", grad, channels)
    block_m, block_n = launch.shrunk(blocks.pop("BM"), rows), launch.shrunk(blocks.pop("BN"), channels)
    n_blocks = launch.cdiv(channels, block_n)
    chunks = min(max(PROGRAMS // max(images * n_blocks, 1), 1), launch.cdiv(rows, block_m)) or 1
    per_chunk = launch.cdiv(rows, chunks)
    pre = grad if activation == "none" else grad.new_empty(*grad.shape[:-1], columns)
    sums = grad.new_empty(images, chunks, columns, dtype=torch.float32)
    if images:
        slope_kernel[(images * chunks, n_blocks)](
            grad, out, sigmoid, pre, sums, rows, per_chunk, chunks, channels, activation, block_m, block_n, **blocks
        )
    return pre, sums
