"""Backward of an activation, for all families: the gradient of the pre-activation and its sums, in one pass."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from vlae_fast.kept import planned

from . import launch
from .activate import times_slope

PROGRAMS = 1024  # fill any GPU a few times over; fixed, so that the order of the sums does not depend on the device


@triton.jit
def slope_block(
    i_chunk,
    i_n,
    p_grad,
    p_out,
    p_sigmoid,
    p_pre,
    p_sums,
    rows,  # in an image
    rows_per_chunk,
    chunks,  # in an image
    C,
    ACTIVATION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    """BN channels of a chunk of rows: each tensor is read or written once, sums are in registers."""
    GATE: tl.constexpr = ACTIVATION == "gate"
    P = 2 * C if GATE else C
    o_n = i_n * BN + tl.arange(0, BN)
    o_image = (i_chunk // chunks).to(tl.int64) * rows
    begin = (i_chunk % chunks) * rows_per_chunk
    end = tl.minimum(begin + rows_per_chunk, rows)
    b_sum_a = tl.zeros([BM, BN], tl.float32)
    b_sum_b = tl.zeros([BM, BN], tl.float32)
    for start in range(begin, end, BM):
        o_m = start + tl.arange(0, BM)
        m_grad = (o_m < end)[:, None] & (o_n < C)[None, :]
        o_grad = (o_image + o_m)[:, None] * C + o_n[None, :]
        o_pre = (o_image + o_m)[:, None] * P + o_n[None, :]
        b_grad = tl.load(p_grad + o_grad, m_grad, other=0.0).to(tl.float32)  # [BM, BN]
        if ACTIVATION == "none":
            b_a = b_grad
        else:
            b_out = tl.load(p_out + o_grad, m_grad, other=0.0).to(tl.float32)  # [BM, BN]
            if GATE:  # out = tanh * sigmoid
                b_sigmoid = tl.load(p_sigmoid + o_grad, m_grad, other=1.0).to(tl.float32)  # [BM, BN]
                b_tanh = b_out / tl.where(b_sigmoid == 0, 1.0, b_sigmoid)
                b_a = b_grad * b_sigmoid * tl.maximum(1.0 - b_tanh * b_tanh, 0.0)  # both were rounded: tanh may pass 1
                b_b = b_grad * b_out * (1.0 - b_sigmoid)
                b_sum_b += b_b
                tl.store(p_pre + o_pre + C, b_b.to(p_pre.dtype.element_ty), m_grad)
            else:
                b_a = times_slope(b_grad, b_out, ACTIVATION)
            tl.store(p_pre + o_pre, b_a.to(p_pre.dtype.element_ty), m_grad)
        b_sum_a += b_a
    p_sum = p_sums + i_chunk.to(tl.int64) * P + o_n
    tl.store(p_sum, tl.sum(b_sum_a, 0), o_n < C)
    if GATE:
        tl.store(p_sum + C, tl.sum(b_sum_b, 0), o_n < C)


@triton.jit
def activation_backward_kernel(
    p_grad,
    p_out,
    p_pre,
    p_sums,
    rows,
    rows_per_chunk,
    C,
    ACTIVATION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    """Gradient before an activation of one value, and its sums over chunks of the rows; all are of one image."""
    slope_block(
        tl.program_id(0), tl.program_id(1), p_grad, p_out, None, p_pre, p_sums,
        rows, rows_per_chunk, tl.num_programs(0), C, ACTIVATION, BM, BN,
    )  # fmt: skip


class Cut(NamedTuple):
    """Rows of images in chunks, channels in blocks."""

    rows: int  # of an image
    per_chunk: int
    chunks: int  # of an image
    n_blocks: int
    config: launch.Config


def cut(grad: Tensor | launch.Like, images: int, rows: int, channels: int) -> Cut:
    """Of images with so many rows of so many channels, in grad's dtype."""
    config = launch.config("slope", grad, channels)
    config["BM"], config["BN"] = launch.shrunk(config["BM"], rows), launch.shrunk(config["BN"], channels)
    n_blocks = launch.cdiv(channels, config["BN"])
    chunks = min(max(PROGRAMS // max(images * n_blocks, 1), 1), launch.cdiv(rows, config["BM"])) or 1
    return Cut(rows, launch.cdiv(rows, chunks), chunks, n_blocks, config)


class Slope(NamedTuple):
    """The slope of an activation for a gradient ``[B, C]`` of its output, before these are known."""

    pre: launch.New | None  # None: the gradient is passed on
    sums: launch.New
    launch: launch.Launch

    def __call__(self, grad: Tensor, out: Tensor | None) -> tuple[Tensor, Tensor]:
        """Gradient of the pre-activation ``[B, C]`` and its sums ``[chunks, C]`` in float32.

        Args:
            grad, out: ``[B, C]``, contiguous. ``out`` is the activation's output; None where it needs none.
        """
        pre, sums = grad if self.pre is None else self.pre(), self.sums()
        self.launch(grad, out, pre, sums)
        return pre, sums


@planned
def slope(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, activation: str) -> Slope:
    """The slope for gradients of such a shape, dtype and device."""
    (batch, channels), grad = shape, launch.Like(shape, dtype, device)
    rows, per_chunk, chunks, n_blocks, config = cut(grad, 1, batch, channels)
    return Slope(
        None if activation == "none" else launch.memory(shape, grad),
        launch.memory((chunks, channels), grad, torch.float32),
        launch.prepared(
            activation_backward_kernel,
            (chunks, n_blocks),
            rows=rows,
            rows_per_chunk=per_chunk,
            C=channels,
            ACTIVATION=activation,
            **config,
        ),
    )
