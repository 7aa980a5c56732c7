"""The gradients of a MADE whose forward pass was one launch: of x and what lies between, of biases, of weights.

Three launches. The hidden outputs were kept: to compute them again, each program would read every live weight once
more, which is more than it writes and reads of what is kept from 64 units a layer on; and the gradients of the weights,
sums over the whole batch, want them in memory anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from vlae_fast.kept import planned

from . import launch
from .live_tiles import Mask
from .made import narrowed
from .masked_linear import product_block
from .masked_linear_backward import blocks, memory_of_parts, parts_of, weight_gradient, whole
from .parts import add_parts

COLUMNS = tl.constexpr(64)  # of the last layer, that are summed at once


@triton.jit
def column_sums(i_m, p_grad, p_sums, B, N, BM: tl.constexpr, BN: tl.constexpr):
    """Sums of the columns of block i_m of the rows of ``[B, N]``."""
    o_m = tl.arange(0, BM)
    for start in tl.range(0, N, BN, num_stages=1):
        o_n = start + tl.arange(0, BN)
        m_grad = (o_m < B - i_m * BM)[:, None] & (o_n < N)[None, :]
        b_grad = tl.load(p_grad + i_m.to(tl.int64) * BM * N + o_m[:, None] * N + o_n[None, :], m_grad, other=0.0)
        tl.store(p_sums + o_n, tl.sum(b_grad.to(tl.float32), 0), o_n < N)


@triton.jit(do_not_specialize=["B"])  # another batch, the same binary
def made_grad_x_kernel(
    p_pres,  # gradients of each layer before its activation; and what follows: tuples of a tensor for each layer
    p_weights,
    p_masks,
    p_walks,
    p_inputs,  # outputs of the layer before; None of the first
    p_grads,  # gradients of these before their activation; of the first, that of x or None
    p_sums,  # [programs, units of all layers]
    sizes,  # of the inputs and of every layer
    starts,  # of a layer's units in a row of p_sums, and their number
    B,
    LAYERS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,  # of each layer's inputs
    BK: tl.constexpr,  # of each layer's outputs
):
    """A program takes BM rows of the gradient back through all layers, and BN units at a time."""
    i_m = tl.program_id(0)
    p_row = p_sums + i_m.to(tl.int64) * starts[LAYERS]
    column_sums(i_m, p_pres[LAYERS - 1], p_row + starts[LAYERS - 1], B, sizes[LAYERS], BM, COLUMNS)
    for LAYER in tl.static_range(LAYERS - 1, -1, -1):
        if p_grads[LAYER] is not None:
            K, N = sizes[LAYER + 1], sizes[LAYER]
            for i_walk in tl.range(0, tl.cdiv(N, BN[LAYER]), num_stages=1):
                p_walk = p_walks[LAYER] + i_walk * (3 + 2 * tl.cdiv(K, BK[LAYER]))
                product_block(
                    i_m, p_walk, p_pres[LAYER], p_weights[LAYER], None, None, p_masks[LAYER], p_grads[LAYER],
                    p_inputs[LAYER], p_row + starts[LAYER - 1] if LAYER > 0 else None, B, N, K,
                    True, False, ACTIVATION if LAYER > 0 else "none", PRECISION, BM, BN[LAYER], BK[LAYER],
                )  # fmt: skip
            tl.debug_barrier()  # the next layer loads what other threads have stored


@triton.jit(do_not_specialize=["B"])
def made_grad_weight_kernel(
    p_pres,  # tuples of a tensor for each layer
    p_inputs,
    p_masks,
    p_tiles,
    p_sums,
    sizes,
    firsts,  # first program of each layer, and how many there are
    rows,  # of the batch in a part
    B,
    LAYERS: tl.constexpr,
    PRECISION: tl.constexpr,
    BO: tl.constexpr,  # of each layer
    BI: tl.constexpr,
    BB: tl.constexpr,
):
    """A program computes a tile of a layer's gradient over a part of the batch."""
    i_program = tl.program_id(0)
    for LAYER in tl.static_range(LAYERS):
        if (i_program >= firsts[LAYER]) & (i_program < firsts[LAYER + 1]):
            weight_gradient(
                i_program - firsts[LAYER], p_pres[LAYER], p_inputs[LAYER], p_masks[LAYER], p_tiles[LAYER],
                p_sums[LAYER], B, sizes[LAYER + 1], sizes[LAYER], rows[LAYER],
                False, PRECISION, BO[LAYER], BI[LAYER], BB[LAYER],
            )  # fmt: skip


class Plan(NamedTuple):
    """The gradients before their tensors are known."""

    hidden: list[launch.New]  # gradients of the hidden layers, before their activation
    grad_x: launch.New | None
    sums: launch.New  # of the rows of each program: `starts`
    walks: list[tuple[int, int]]  # blocks of each layer's inputs and outputs
    through: launch.Launch  # of the gradient, through all layers
    weights: list[launch.New]  # parts of their gradients
    tiles: list[tuple[int, int]]
    products: launch.Launch | None  # None where no weight needs a gradient


@planned
def _plan(
    batch: int,
    sizes: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    activation: str,
    needs_x: bool,
    needs_weights: bool,
    precision: str,
) -> Plan:
    x = launch.Like((batch, sizes[0]), dtype, device)
    config = {"maxnreg": 255} | launch.config("made", x, *sizes)  # left alone, the compiler spills for more programs
    ins, outs = narrowed(config.pop("BN"), sizes[:-1]), narrowed(config.pop("BK"), sizes[1:])
    starts, programs = tuple(accumulate(sizes[1:], initial=0)), launch.cdiv(batch, config["BM"])
    through = launch.prepared(
        made_grad_x_kernel,
        (programs,),
        sizes=sizes,
        starts=starts,
        B=batch,
        LAYERS=len(sizes) - 1,
        ACTIVATION=activation,
        PRECISION=precision,
        BN=ins,
        BK=outs,
        **config,
    )
    weights = [launch.Like((o, i), dtype, device) for i, o in pairwise(sizes)]
    configs = [blocks(weight, batch) for weight in weights]
    cuts = [parts_of(weight, batch, config) for weight, config in zip(weights, configs, strict=True)]
    return Plan(
        [launch.memory((batch, size), x) for size in sizes[1:-1]],
        launch.memory(x.shape, x) if needs_x else None,
        launch.memory((programs, starts[-1]), x, torch.float32),
        list(zip(ins, outs, strict=True)),
        through,
        [memory_of_parts(weight, parts) for weight, (parts, _, _) in zip(weights, cuts, strict=True)],
        [(config["BO"], config["BI"]) for config in configs],
        _products(batch, sizes, configs, cuts, precision) if needs_weights else None,
    )


def _products(
    batch: int,
    sizes: tuple[int, ...],
    configs: Sequence[launch.Config],
    cuts: Sequence[tuple[int, int, int]],
    precision: str,
) -> launch.Launch:
    """The gradients of all weights, or their parts."""
    firsts = tuple(accumulate((programs for _, _, programs in cuts), initial=0))
    return launch.prepared(
        made_grad_weight_kernel,
        (firsts[-1],),
        sizes=sizes,
        firsts=firsts,
        rows=tuple(rows for _, rows, _ in cuts),
        B=batch,
        LAYERS=len(cuts),
        PRECISION=precision,
        **{name: tuple(config[name] for config in configs) for name in ("BO", "BI", "BB")},
        num_warps=max(config["num_warps"] for config in configs),
        num_stages=min(config["num_stages"] for config in configs),
        enable_fp_fusion=True,
    )


def backward(
    grad: Tensor,
    x: Tensor,
    hidden: Sequence[Tensor],
    weights: Sequence[Tensor],
    masks: Sequence[Mask],
    activation: str,
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """Gradients of x, cond, the weights, the biases; None where ``needs``, in the same order, is False.

    All tensors are contiguous, the batch is not empty. `made.why_not` has nothing against these layers.
    """
    (batch, inputs), dtype, n = x.shape, x.dtype, len(weights)
    sizes, needs_weights = (inputs, *map(len, weights)), True in needs[2 : 2 + n]
    precision = launch.matmul_precision(dtype)
    plan = _plan(batch, sizes, dtype, x.device, activation, needs[0], needs_weights, precision)
    of_hidden, grad_x, sums = [new() for new in plan.hidden], plan.grad_x and plan.grad_x(), plan.sums()
    pres, tables = (*of_hidden, grad), tuple([mask.data() for mask in masks])
    walks = tuple([mask.walks(*blocks, transposed=True) for mask, blocks in zip(masks, plan.walks, strict=True)])
    plan.through(pres, tuple(weights), tables, walks, (None, *hidden), (grad_x, *of_hidden), sums)
    biases = add_parts(sums, dtype).split(sizes[1:])
    grad_weights: list[Tensor | None] = [None] * n
    if plan.products is not None:
        parts = tuple([new() for new in plan.weights])
        tiles = tuple([mask.tiles(*blocks) for mask, blocks in zip(masks, plan.tiles, strict=True)])
        plan.products(pres, (x, *hidden), tables, tiles, parts)
        grad_weights = list(map(whole, parts, weights))
    found = [grad_x, pres[0].clone() if needs[1] else None, *grad_weights, *biases]
    return [one if need else None for one, need in zip(found, needs, strict=True)]
