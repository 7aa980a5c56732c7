"""All layers of a MADE in one launch: a program takes its rows through one after the other.

A layer reads what the same program has written of the one before: a few KB for each tile of weights of ten times the
size, from the cache. Each program reads every live weight, where a launch for each layer reads a weight once for many
more rows: `why_not` says where that costs more than the launches do.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

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
    *hidden, _ = (len(weight) for weight in weights)
    if not hidden:
        return "one layer is one launch anyway"
    if len(weights) > MOST_LAYERS:
        return f"at most {MOST_LAYERS} layers are taken, got {len(weights)}"
    if max(hidden) > WIDEST:
        return f"at most {WIDEST} units of a hidden layer are taken, got {max(hidden)}"
    if any(weight.numel() == 0 for weight in weights):
        return "a layer has no weights"
    live, dtype = sum(weight.numel() for weight in weights) // 2, weights[0].dtype
    cycles = live * dtype.itemsize // BYTES_PER_CYCLE
    if dtype == torch.float32 and launch.matmul_precision(dtype) == "ieee":
        cycles = live * ROWS // PRODUCTS_PER_CYCLE  # without matrix instructions
    cycles *= launch.cdiv(launch.cdiv(batch, ROWS), PROGRAMS) or 1  # programs that a processor runs in turn
    if cycles > (most := LAUNCH_CYCLES * len(hidden)):
        return f"weights would take {cycles} cycles, more than the {most} of the launches that are saved"
    return None


def narrowed(block: int, sizes: Sequence[int]) -> tuple[int, ...]:
    """A block for each layer: a tile wider than an eighth of it would compute too many dead products."""
    return tuple(launch.shrunk(block, launch.cdiv(size, 8)) for size in sizes)


def forward(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    masks: Sequence[Mask],
    cond: Tensor | None,
    activation: str,
) -> list[Tensor]:
    """The outputs of every layer, ``[B, units]``, from the first on. All tensors are contiguous."""
    batch, sizes = len(x), (x.shape[1], *map(len, weights))
    outs = [x.new_empty(batch, size) for size in sizes[1:]]
    if batch == 0:
        return outs
    config = launch.config("made", x, *sizes)
    blocks_n, blocks_k = narrowed(config.pop("BN"), sizes[1:]), narrowed(config.pop("BK"), sizes[:-1])
    walks = [mask.walks(n, k) for mask, n, k in zip(masks, blocks_n, blocks_k, strict=True)]
    made_forward_kernel[(launch.cdiv(batch, config["BM"]),)](
        x,
        cond,
        tuple(weights),
        tuple(biases),
        tuple(mask.data() for mask in masks),
        tuple(walks),
        tuple(outs),
        sizes,
        batch,
        LAYERS=len(weights),
        ACTIVATION=activation,
        PRECISION=launch.matmul_precision(x.dtype),
        BN=blocks_n,
        BK=blocks_k,
        **config,
    )
    return outs
