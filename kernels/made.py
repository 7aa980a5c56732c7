"""All layers of a MADE in one launch: a program takes its rows through one after the other.

A layer reads what the same program has written of the one before: a few KB for each tile of weights of ten times the
size, from the cache. Each program reads every live weight, where a launch for each layer reads a weight once for many
more rows: `why_not` says where that costs more than the launches do.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from vlae_fast.kept import planned

from . import launch
from .live_tiles import Mask
from .masked_linear import PROGRAMS, product_block

WIDEST = 1024  # units of a hidden layer
MOST_LAYERS = 8  # each has code of its own
ROWS = 16  # of a program: the fewest that a matrix instruction takes, so that small batches fill a GPU
# Estimates for an H100: a launch costs about 12 us, less in a CUDA graph, more in eager mode.
LAUNCH_CYCLES, BYTES_PER_CYCLE, PRODUCTS_PER_CYCLE = 20_000, 64, 128


@triton.jit(do_not_specialize=["B"])  # another batch, the same binary
def made_forward_kernel(
    p_x,
    p_cond,
    p_weights,  # and what follows: tuples of a tensor for each layer
    p_biases,
    p_masks,
    p_walks,
    p_outs,
    sizes,  # of the inputs and of every layer
    B,
    LAYERS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,  # of each layer
    BK: tl.constexpr,  # of each layer
):
    """A program takes BM rows through all layers, and BN units of a layer at a time."""
    p_in = p_x
    for LAYER in tl.static_range(LAYERS):
        K, N = sizes[LAYER], sizes[LAYER + 1]
        for i_walk in tl.range(0, tl.cdiv(N, BN[LAYER]), num_stages=1):
            p_walk = p_walks[LAYER] + i_walk * (3 + 2 * tl.cdiv(K, BK[LAYER]))
            product_block(
                tl.program_id(0), p_walk, p_in, p_weights[LAYER], p_biases[LAYER], p_cond if LAYER == 0 else None,
                p_masks[LAYER], p_outs[LAYER], None, None, B, N, K,
                False, False, "none" if LAYER == LAYERS - 1 else ACTIVATION, PRECISION, BM, BN[LAYER], BK[LAYER],
            )  # fmt: skip
        tl.debug_barrier()  # the next layer loads what other threads have stored
        p_in = p_outs[LAYER]


def why_not(weights: Sequence[Tensor], batch: int = 1) -> str | None:
    """Why these layers are not taken through one launch; None where they are."""
    dtype = weights[0].dtype
    return _why_not(tuple(weight.shape for weight in weights), dtype, batch, launch.matmul_precision(dtype))


@planned
def _why_not(shapes: tuple[tuple[int, ...], ...], dtype: torch.dtype, batch: int, precision: str) -> str | None:
    *hidden, _ = (outputs for outputs, _ in shapes)
    if not hidden:
        return "one layer is one launch anyway"
    if len(shapes) > MOST_LAYERS:
        return f"at most {MOST_LAYERS} layers are taken, got {len(shapes)}"
    if max(hidden) > WIDEST:
        return f"at most {WIDEST} units of a hidden layer are taken, got {max(hidden)}"
    if not all(map(prod, shapes)):
        return "a layer has no weights"
    live = sum(map(prod, shapes)) // 2
    cycles = live * dtype.itemsize // BYTES_PER_CYCLE
    if dtype == torch.float32 and precision == "ieee":
        cycles = live * ROWS // PRODUCTS_PER_CYCLE  # without matrix instructions
    cycles *= launch.cdiv(launch.cdiv(batch, ROWS), PROGRAMS) or 1  # programs that a processor runs in turn
    if cycles > (most := LAUNCH_CYCLES * len(hidden)):
        return f"weights would take {cycles} cycles, more than the {most} of the launches that are saved"
    return None


def narrowed(block: int, sizes: Sequence[int]) -> tuple[int, ...]:
    """A block for each layer: a tile wider than an eighth of it would compute too many dead products."""
    return tuple(launch.shrunk(block, launch.cdiv(size, 8)) for size in sizes)


class Plan(NamedTuple):
    """The layers before their tensors are known."""

    outs: list[launch.New]  # of every layer
    blocks: list[tuple[int, int]]  # of each layer's outputs and inputs
    launch: launch.Launch | None  # None where there is nothing to compute


@planned
def _plan(
    batch: int, sizes: tuple[int, ...], dtype: torch.dtype, device: torch.device, activation: str, precision: str
) -> Plan:
    x = launch.Like((batch, sizes[0]), dtype, device)
    config = launch.config("made", x, *sizes)
    blocks_n, blocks_k = narrowed(config.pop("BN"), sizes[1:]), narrowed(config.pop("BK"), sizes[:-1])
    computes = launch.prepared(
        made_forward_kernel,
        (launch.cdiv(batch, config["BM"]),),
        sizes=sizes,
        B=batch,
        LAYERS=len(sizes) - 1,
        ACTIVATION=activation,
        PRECISION=precision,
        BN=blocks_n,
        BK=blocks_k,
        **config,
    )
    outs = [launch.memory((batch, size), x) for size in sizes[1:]]
    return Plan(outs, list(zip(blocks_n, blocks_k, strict=True)), computes if batch else None)


def forward(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    masks: Sequence[Mask],
    cond: Tensor | None,
    activation: str,
) -> list[Tensor]:
    """The outputs of every layer, ``[B, units]``, from the first on. All tensors are contiguous."""
    (batch, inputs), dtype = x.shape, x.dtype
    sizes = (inputs, *map(len, weights))
    plan = _plan(batch, sizes, dtype, x.device, activation, launch.matmul_precision(dtype))
    outs = [out() for out in plan.outs]
    if plan.launch is not None:
        tables = tuple([mask.data() for mask in masks])
        walks = tuple([mask.walks(*blocks) for mask, blocks in zip(masks, plan.blocks, strict=True)])
        plan.launch(x, cond, tuple(weights), tuple(biases), tables, walks, tuple(outs))
    return outs
