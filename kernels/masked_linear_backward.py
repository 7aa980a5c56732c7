"""The gradients of a masked linear layer: both products in one launch, empty tiles skipped as in the forward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from vlae_fast.kept import planned

from . import launch
from .dot import dot
from .live_tiles import Mask
from .masked_linear import PROGRAMS, alive, blocks_of, product
from .parts import add_parts
from .slope import Slope, slope

ROWS_PER_PART = 512  # rows of the batch, at least, in a part of a weight's gradient


@triton.jit
def weight_gradient(
    i_program,
    p_pre,
    p_x,
    p_mask,
    p_tiles,
    p_grad,
    B,
    OUT,
    IN,
    rows,
    ADJACENCY: tl.constexpr,
    PRECISION: tl.constexpr,
    BO: tl.constexpr,
    BI: tl.constexpr,
    BB: tl.constexpr,
):
    """pre^T ``[OUT, B]`` x ``[B, IN]`` over a part of the batch, ``rows`` long: a program computes BO x BI of it.

    The live tiles are all of the same length and come first; a dead one writes zeros.
    """
    width = tl.cdiv(IN, BI)
    n_tiles = tl.cdiv(OUT, BO) * width
    i_tile = tl.load(p_tiles + i_program % n_tiles)
    i_part = i_program // n_tiles
    begin = i_part * rows
    end = tl.where(i_tile < 0, begin, tl.minimum(begin + rows, B))
    i_tile = tl.where(i_tile < 0, -1 - i_tile, i_tile)
    o_out, o_in = i_tile // width * BO + tl.arange(0, BO), i_tile % width * BI + tl.arange(0, BI)
    m_out, m_in = (o_out < OUT)[None, :], (o_in < IN)[None, :]
    o_b = tl.arange(0, BB)
    o_pre, o_x = o_b[:, None] * OUT + o_out[None, :], o_b[:, None] * IN + o_in[None, :]
    b_grad = tl.zeros([BO, BI], tl.float32)
    for i_row in range(begin, end, BB):
        base = tl.cast(i_row, tl.int64)
        m_b = (o_b < end - i_row)[:, None]
        b_pre = tl.load(p_pre + base * OUT + o_pre, m_b & m_out, other=0.0)  # [BB, BO]
        b_x = tl.load(p_x + base * IN + o_x, m_b & m_in, other=0.0)  # [BB, BI]
        b_grad = dot(tl.trans(b_pre), b_x, b_grad, PRECISION)
    b_grad = tl.where(alive(p_mask, o_out[:, None], o_in[None, :], OUT, IN, ADJACENCY), b_grad, 0.0)
    p_tile = p_grad + (i_part * OUT + o_out).to(tl.int64)[:, None] * IN + o_in[None, :]
    tl.store(p_tile, b_grad.to(p_grad.dtype.element_ty), (o_out < OUT)[:, None] & m_in)


@triton.jit(do_not_specialize=["B", "weight_programs", "rows"])
def masked_linear_backward_kernel(
    p_pre,
    p_x,
    p_weight,
    p_mask,
    p_walks,
    p_tiles,
    p_grad_x,
    p_grad_weight,
    p_sums,
    B,
    OUT,
    IN,
    weight_programs,
    rows,
    ADJACENCY: tl.constexpr,
    BEFORE: tl.constexpr,  # the activation that x comes from
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
    BO: tl.constexpr,
    BI: tl.constexpr,
    BB: tl.constexpr,
):
    """Both gradients in one launch: short walks of x's gradient fill the GPU while the weight's last programs run.

    With p_sums, x's gradient is that before the activation that x comes from, and its sums ``[blocks of rows, IN]``.
    """
    i_program = tl.program_id(0)
    if p_grad_weight is not None:
        if i_program < weight_programs:
            weight_gradient(
                i_program, p_pre, p_x, p_mask, p_tiles, p_grad_weight, B, OUT, IN, rows,
                ADJACENCY, PRECISION, BO, BI, BB,
            )  # fmt: skip
    if p_grad_x is not None:
        if i_program >= weight_programs:
            product(
                i_program - weight_programs, p_pre, p_weight, None, p_mask, p_walks, p_grad_x,
                None if p_sums is None else p_x, p_sums, B, IN, OUT,
                True, ADJACENCY, BEFORE, PRECISION, BM, BN, BK, GROUP,
            )  # fmt: skip


class Products(NamedTuple):
    """The gradients of x and weight before their tensors are known; None for what is not needed, or of nothing."""

    grad_x: launch.New | None
    sums_x: launch.New | None
    parts: launch.New | None  # of the weight's gradient
    walks: tuple[int, int] | None  # blocks of the walks, and of the tiles
    tiles: tuple[int, int] | None
    launch: launch.Launch | None

    def __call__(
        self, pre: Tensor, x: Tensor, weight: Tensor, mask: Mask
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Gradients of x and weight, and sums ``[parts of the batch, I]`` of the first."""
        grad_x, sums_x = self.grad_x and self.grad_x(), self.sums_x and self.sums_x()
        parts = self.parts and self.parts()
        if self.launch is not None:
            walks = self.walks and mask.walks(*self.walks, transposed=True)
            tiles = self.tiles and mask.tiles(*self.tiles)
            self.launch(pre, x, weight, mask.data(), walks, tiles, grad_x, parts, sums_x)
        return grad_x, None if parts is None else whole(parts, weight), sums_x


@planned
def _plan(
    batch: int,
    weight_shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    is_adjacency: bool,
    activation: str,
    needs: tuple[bool, ...],
    precision: str,
) -> tuple[Slope | None, Products]:
    needs_x, needs_weight, needs_bias = needs
    needs_slope = activation != "none" or needs_bias
    return (
        slope((batch, weight_shape[0]), dtype, device, activation) if needs_slope else None,
        _products(batch, weight_shape, dtype, device, is_adjacency, needs_x, needs_weight, None, precision),
    )


def backward(
    grad: Tensor, y: Tensor | None, x: Tensor, weight: Tensor, mask: Mask, activation: str, needs: Sequence[bool]
) -> list[Tensor | None]:
    """Gradients of x, weight and bias, None where ``needs`` is False. y, the output, is not read without activation."""
    dtype = x.dtype
    of_activation, products = _plan(
        x.shape[0], weight.shape, dtype, x.device, mask.is_adjacency, activation, tuple(needs),
        launch.matmul_precision(dtype),
    )  # fmt: skip
    pre, grad_bias = grad, None
    if of_activation is not None:
        pre, sums = of_activation(grad, y)
        grad_bias = add_parts(sums, dtype) if needs[2] else None
    grad_x, grad_weight, _ = products(pre, x, weight, mask)
    return [grad_x, grad_weight, grad_bias]


def backward_of_layers(
    grad: Tensor,
    x: Tensor,
    hidden: Sequence[Tensor],
    weights: Sequence[Tensor],
    masks: Sequence[Mask],
    activation: str,
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """As `made_backward.backward`, a launch for each layer: of any sizes.

    The slope of a hidden layer is taken where its gradient is computed, by the layer behind it: no pass of its own.
    """
    n, inputs = len(weights), [x, *hidden]
    found: list[Tensor | None] = [None] * len(needs)
    pre: Tensor = grad
    batch, dtype = len(x), x.dtype
    sums = slope(grad.shape, dtype, x.device, "none")(grad, None)[1] if needs[-1] else None
    for i in reversed(range(n)):
        if needs[2 + n + i] and sums is not None:
            found[2 + n + i] = add_parts(sums, dtype)
        if i == 0 and needs[1]:
            found[1] = pre.clone()
        wanted = needs[0] if i == 0 else any((*needs[: 2 + i], *needs[2 + n : 2 + n + i]))
        before = activation if i else None
        products = _products(
            batch, weights[i].shape, dtype, x.device, masks[i].is_adjacency, wanted, needs[2 + i], before,
            launch.matmul_precision(dtype),
        )  # fmt: skip
        below, found[2 + i], sums = products(pre, inputs[i], weights[i], masks[i])
        if i == 0:
            found[0] = below
        elif below is None:
            break
        else:
            pre = below
    return found


def blocks(weight: launch.Like, batch: int) -> launch.Config:
    """Block sizes of both products of a layer."""
    outputs, inputs = weight.shape
    config = blocks_of("masked_linear_backward", weight, batch, transposed=True)
    config["BO"] = launch.shrunk(config["BO"], launch.cdiv(outputs, 8))
    config["BI"] = launch.shrunk(config["BI"], launch.cdiv(inputs, 8))
    config["BB"] = launch.shrunk(config["BB"], batch)
    # a thread has 32 outputs of the larger product at least; with fewer, Triton 3.6 spills
    largest = max(config["BM"] * config["BN"], config["BO"] * config["BI"])
    launch.limit_warps(config, max(4, largest // 1024))
    return config


def parts_of(weight: launch.Like, batch: int, config: launch.Config) -> tuple[int, int, int]:
    """Parts of the batch in the gradient of a weight, rows of the batch in each, and programs of all."""
    outputs, inputs = weight.shape
    tiles = launch.cdiv(outputs, config["BO"]) * launch.cdiv(inputs, config["BI"])
    parts = max(min(PROGRAMS // max(tiles, 1), batch // ROWS_PER_PART), 1)
    rows = launch.cdiv(batch, parts * config["BB"]) * config["BB"]
    return parts, rows, tiles * parts


def memory_of_parts(weight: launch.Like, parts: int) -> launch.New:
    """Allocates parts of a weight's gradient, ``[parts, O, I]`` in float32; one is the gradient, ``[O, I]``."""
    if parts == 1:
        return launch.memory(weight.shape, weight)
    return launch.memory((parts, *weight.shape), weight, torch.float32)


def whole(parts: Tensor, weight: Tensor) -> Tensor:
    """The gradient of a weight from what `memory_of_parts` allocated."""
    return parts if parts.dim() == weight.dim() else add_parts(parts.flatten(1), weight.dtype).view_as(weight)


@planned
def _products(
    batch: int,
    weight_shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    is_adjacency: bool,
    needs_x: bool,
    needs_weight: bool,
    before: str | None,
    precision: str,
) -> Products:
    """before: the activation that x comes from. The gradient of x is then that before it, and has sums."""
    weight, (outputs, inputs) = launch.Like(weight_shape, dtype, device), weight_shape
    config = blocks(weight, batch)
    row_blocks = launch.cdiv(batch, config["BM"])
    parts, rows, weight_programs = parts_of(weight, batch, config) if needs_weight else (0, 0, 0)
    x_programs = row_blocks * launch.cdiv(inputs, config["BN"]) if needs_x else 0
    computes = launch.prepared(
        masked_linear_backward_kernel,
        (weight_programs + x_programs,),
        B=batch,
        OUT=outputs,
        IN=inputs,
        weight_programs=weight_programs,
        rows=rows,
        ADJACENCY=is_adjacency,
        BEFORE=before or "none",
        PRECISION=precision,
        **config,
    )
    sums_x = launch.memory((row_blocks, inputs), weight, torch.float32)
    return Products(
        launch.memory((batch, inputs), weight) if needs_x else None,
        sums_x if needs_x and before is not None else None,
        memory_of_parts(weight, parts) if needs_weight else None,
        (config["BN"], config["BK"]) if needs_x else None,
        (config["BO"], config["BI"]) if needs_weight else None,
        computes if weight_programs + x_programs else None,
    )
