"""The gradients of a MADE whose forward pass was one launch: of x and what lies between, of biases, of weights.

Three launches. The hidden outputs were kept: to compute them again, each program would read every live weight once
more, which is more than it writes and reads of what is kept from 64 units a layer on; and the gradients of the weights,
sums over the whole batch, want them in memory anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import launch
from .live_tiles import Mask
from .made import narrowed
from .masked_linear import product_block
from .masked_linear_backward import blocks, parts_of, weight_gradient
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
    n = len(weights)
    inputs = [x, *hidden]
    of_hidden = [torch.empty_like(h) for h in hidden]
    grads, pres = [torch.empty_like(x) if needs[0] else None, *of_hidden], [*of_hidden, grad]
    biases = _grad_x(pres, weights, masks, inputs, grads, activation)
    grad_weights = _grad_weights(pres, inputs, weights, masks) if any(needs[2 : 2 + n]) else [None] * n
    found = [grads[0], pres[0].clone() if needs[1] else None, *grad_weights, *biases]
    return [one if need else None for one, need in zip(found, needs, strict=True)]


def _grad_x(
    pres: Sequence[Tensor | None],
    weights: Sequence[Tensor],
    masks: Sequence[Mask],
    inputs: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    activation: str,
) -> list[Tensor]:
    """Fills ``grads``; returns the gradients of the biases."""
    x, sizes = inputs[0], [inputs[0].shape[1], *map(len, weights)]
    config = {"maxnreg": 255} | launch.config("made", x, *sizes)  # left alone, the compiler spills for more programs
    ins, outs = narrowed(config.pop("BN"), sizes[:-1]), narrowed(config.pop("BK"), sizes[1:])
    starts = tuple(accumulate(sizes[1:], initial=0))
    programs = launch.cdiv(len(x), config["BM"])
    sums = x.new_empty(programs, starts[-1], dtype=torch.float32)
    walks = [mask.walks(i, o, transposed=True) for mask, o, i in zip(masks, outs, ins, strict=True)]
    made_grad_x_kernel[(programs,)](
        tuple(pres),
        tuple(weights),
        tuple(mask.data() for mask in masks),
        tuple(walks),
        (None, *inputs[1:]),
        tuple(grads),
        sums,
        tuple(sizes),
        starts,
        len(x),
        LAYERS=len(weights),
        ACTIVATION=activation,
        PRECISION=launch.matmul_precision(x.dtype),
        BN=ins,
        BK=outs,
        **config,
    )
    return list(add_parts(sums[None], x.dtype)[0].split(sizes[1:]))


def _grad_weights(
    pres: Sequence[Tensor | None], inputs: Sequence[Tensor], weights: Sequence[Tensor], masks: Sequence[Mask]
) -> list[Tensor | None]:
    batch, x = len(inputs[0]), inputs[0]
    configs = [blocks(weight, batch) for weight in weights]
    cuts = [parts_of(weight, batch, config) for weight, config in zip(weights, configs, strict=True)]
    sums = [
        x.new_empty(parts, *weight.shape, dtype=weight.dtype if parts == 1 else torch.float32)
        for weight, (parts, _, _) in zip(weights, cuts, strict=True)
    ]
    firsts = tuple(accumulate((programs for _, _, programs in cuts), initial=0))
    block_o, block_i, block_b = (tuple(config[name] for config in configs) for name in ("BO", "BI", "BB"))
    made_grad_weight_kernel[(firsts[-1],)](
        tuple(pres),
        tuple(inputs),
        tuple(mask.data() for mask in masks),
        tuple(mask.tiles(o, i) for mask, o, i in zip(masks, block_o, block_i, strict=True)),
        tuple(sums),
        (x.shape[1], *map(len, weights)),
        firsts,
        tuple(rows for _, rows, _ in cuts),
        batch,
        LAYERS=len(weights),
        PRECISION=launch.matmul_precision(x.dtype),
        BO=block_o,
        BI=block_i,
        BB=block_b,
        num_warps=max(config["num_warps"] for config in configs),
        num_stages=min(config["num_stages"] for config in configs),
        enable_fp_fusion=True,
    )
    return [
        one[0] if len(one) == 1 else add_parts(one.flatten(1)[None], x.dtype).view_as(weight)
        for one, weight in zip(sums, weights, strict=True)
    ]
