"""The whole sampling loop of `pixelcnn_sample` in one launch.

A program owns a tile of samples and walks the schedule, stage by stage and wave by wave. Rows of a product are samples
x pixels of the wave, so that a wave of one sample still fills a matrix instruction. Between its stages a program waits
for itself alone: activations go through rings that it alone touches, a few waves deep, small enough to stay in cache.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .activate import PAIRS
from .launch import Config, cdiv, config, matmul_precision, shrunk
from .pixelcnn_draw import draw_block
from .pixelcnn_packing import BG, NARROW, Tables, channels, codes_used, tables
from .pixelcnn_packing import pack as pack_tiles
from .pixelcnn_stage import FIELDS, context_block, norm_block, stage_block

STAGE_FIELDS = tl.constexpr(15)  # a row of `Tables.stages` has so many


@triton.jit
def _stage(
    p_ring,
    p_weight,
    p_bias,
    p_table,
    p_stage,  # its row of `Tables.stages`
    u,
    rows,
    sample0,
    sample_size,
    shape,
    CODES_USED: tl.constexpr,
    HAS_FACTOR: tl.constexpr,
    HAS_STRIDES: tl.constexpr,
    HAS_NORM: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    BG: tl.constexpr,
):
    """A stage at the wave that it has reached in step u, a block of rows x a tile of columns at a time."""
    w = u - tl.load(p_stage)
    activation = tl.load(p_stage + 1)
    p_reads = p_table + tl.load(p_stage + 2) * FIELDS
    n_gathered, n_runs, columns = tl.load(p_stage + 3), tl.load(p_stage + 4), tl.load(p_stage + 5)
    p_w = p_weight + tl.load(p_stage + 6).to(tl.int64) * BN
    p_b = p_bias + tl.load(p_stage + 7)
    depth = tl.load(p_stage + 8)  # rows of BN weights for a tile of columns
    sites = (1, 0, 0)  # all pixels
    if HAS_STRIDES:
        stride, row, column = tl.load(p_stage + 11), tl.load(p_stage + 12), tl.load(p_stage + 13)
        sites = (stride, row, column)
        _, _, _, slope, pixels, samples = shape
        # a wave has pixels in all of a stage's rows, or in none
        rows = tl.where((w - slope * row - column) % stride == 0, samples * ((pixels + stride - 1) // stride), 0)
    normed = 0  # channels of a norm
    if HAS_NORM:
        normed = tl.load(p_stage + 14)
    if normed > 0:
        for o in tl.range(0, rows, BM, num_stages=1):
            norm_block(
                p_ring, p_w, p_b, p_reads, o + tl.arange(0, BM), columns, normed, u, w, activation, sample0,
                sample_size, shape, sites, CODES_USED, HAS_FACTOR, BM, BN,
            )  # fmt: skip
        columns = 0
    for o in tl.range(0, rows, BM, num_stages=1):
        o_m = o + tl.arange(0, BM)
        for n in tl.range(0, columns, num_stages=1):
            stage_block(
                p_ring, p_w + n * depth * BN, p_b + n * BN, p_reads, n_gathered, n_runs, o_m, n, u, w,
                activation, sample0, sample_size, shape, sites, CODES_USED, HAS_FACTOR, PRECISION, BM, BN, BK, BG,
            )  # fmt: skip
    tl.debug_barrier()  # the next stage loads what other threads have stored


@triton.jit(do_not_specialize=["B", "n_tiles", "stride_b", "stride_i", "stride_j"])
def pixelcnn_sample_forward_kernel(
    p_noise,
    p_mask,
    p_known,
    p_context,
    p_images,
    p_params,
    p_temperature,
    p_weight,
    p_bias,
    p_rings,
    p_table,
    p_stages,
    B,
    H,
    W,
    slope,
    pixels,
    samples,
    n_tiles,
    steps,
    ahead,
    context_lead,
    n_stages,
    sample_size,
    channels,
    params,
    dim,
    draw_row,
    stride_b,
    stride_i,
    stride_j,
    IN_TURN: tl.constexpr,
    HAS_CONTEXT: tl.constexpr,
    HAS_KNOWN: tl.constexpr,
    EMIT: tl.constexpr,
    LEVELS: tl.constexpr,
    COMPONENTS: tl.constexpr,
    CODES_USED: tl.constexpr,
    HAS_FACTOR: tl.constexpr,
    HAS_STRIDES: tl.constexpr,
    HAS_NORM: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    BG: tl.constexpr,
    BC: tl.constexpr,
    BP: tl.constexpr,
):
    """A program takes tiles of samples in turn; in each of ``steps`` a tile walks context, stages and draw.

    Rows of the products are samples x pixels of the wave, BM at a time.
    """
    shape = (B, H, W, slope, pixels, samples)
    strides = (stride_b, stride_i, stride_j)
    rows = samples * pixels
    p_ring = p_rings + tl.program_id(0).to(tl.int64) * samples * sample_size
    for tile in tl.range(tl.program_id(0), n_tiles, tl.num_programs(0), num_stages=1):
        sample0 = tile * samples
        for u in tl.range(0, steps, num_stages=1):
            if HAS_CONTEXT:
                for o in tl.range(0, rows, BM, num_stages=1):
                    context_block(
                        p_context, p_ring, p_table, o + tl.arange(0, BM), u, u - ahead + context_lead,
                        sample0, sample_size, dim, strides, shape, BK,
                    )  # fmt: skip
                tl.debug_barrier()
            if IN_TURN:
                for s in tl.range(0, n_stages + 1, num_stages=1):
                    p_stage = p_stages + s * STAGE_FIELDS
                    for d in tl.range(tl.load(p_stage + 9), tl.load(p_stage + 10), num_stages=1):
                        for o in tl.range(0, rows, BM, num_stages=1):
                            draw_block(
                                p_noise, p_mask, p_known, p_images, p_params, p_ring, p_table,
                                p_table + (draw_row + d) * FIELDS, d, o + tl.arange(0, BM), u, u - ahead,
                                p_temperature, sample0, sample_size, channels, params, shape,
                                IN_TURN, HAS_KNOWN, EMIT, LEVELS, COMPONENTS, BC, BP,
                            )  # fmt: skip
                        tl.debug_barrier()
                    if s < n_stages:
                        _stage(
                            p_ring, p_weight, p_bias, p_table, p_stage, u, rows, sample0, sample_size, shape,
                            CODES_USED, HAS_FACTOR, HAS_STRIDES, HAS_NORM, PRECISION, BM, BN, BK, BG,
                        )  # fmt: skip
            else:
                for s in tl.range(0, n_stages, num_stages=1):
                    _stage(
                        p_ring, p_weight, p_bias, p_table, p_stages + s * STAGE_FIELDS, u, rows, sample0, sample_size,
                        shape, CODES_USED, HAS_FACTOR, HAS_STRIDES, HAS_NORM, PRECISION, BM, BN, BK, BG,
                    )  # fmt: skip
                for o in tl.range(0, rows, BM, num_stages=1):
                    draw_block(
                        p_noise, p_mask, p_known, p_images, p_params, p_ring, p_table, p_table + draw_row * FIELDS, 0,
                        o + tl.arange(0, BM), u, u - ahead, p_temperature, sample0, sample_size, channels, params,
                        shape, IN_TURN, HAS_KNOWN, EMIT, LEVELS, COMPONENTS, BC, BP,
                    )  # fmt: skip
                tl.debug_barrier()


class _Tiling(NamedTuple):
    """Samples cut into tiles of ``samples``, which the programs take in turn."""

    block_m: int
    samples: int
    tiles: int
    programs: int


def _blocks(plan: Any, like: Tensor) -> Config:
    """Block sizes for a plan. They do not depend on the batch, nor do the packed weights and the order of additions."""
    drawn = {draw.buffer for draw in plan.all_draws}
    params = max(channels(plan)[buffer] for buffer in drawn)
    # without the parameters, which no stage reads: they may be hundreds a pixel
    widest = max(c for buffer, c in enumerate(channels(plan)) if buffer not in drawn)
    cfg = config("pixelcnn_sample", like, widest)
    pairs = any(stage.activation in PAIRS for stage in plan.stages)
    columns = max(widest * (2 if pairs else 1), params)
    return cfg | {"BN": shrunk(cfg["BN"], columns), "BK": shrunk(cfg["BK"], widest)}


def pack(weights: Sequence[Tensor], plan: Any) -> list[Tensor]:
    """The weights in the tiles that the kernel reads, one after the other."""
    cfg = _blocks(plan, weights[0])
    return pack_tiles(weights, plan, cfg["BN"], cfg["BK"])


def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2


def _tiling(noise: Tensor, pixels: int, block_m: int, per_processor: int) -> _Tiling:
    """The tiling of a batch for a GPU; ``pixels`` of a wave at most."""
    batch, processors = len(noise), _processors(noise.device)
    if noise.dtype == torch.float32 and matmul_precision(noise.dtype) == "ieee":
        # every row adds its products one by one whatever the block: rows that would be empty need not be computed
        block_m = shrunk(block_m, cdiv(batch, processors) * pixels)
    samples = max(1, block_m // pixels)
    tiles = cdiv(batch, samples)
    return _Tiling(block_m, samples, tiles, min(tiles, per_processor * processors))


def _rings(noise: Tensor, told: Tables, tiling: _Tiling, image_channels: int) -> Tensor:
    """Memory for the activations that each program keeps."""
    # zeros: an image read in whole tiles has channels after its last, which nobody writes
    new = noise.new_zeros if image_channels > NARROW else noise.new_empty
    return new(tiling.programs * tiling.samples * told.sample_size)


def _temperatures(temperature: float, device: torch.device) -> Tensor:
    """The temperature and its reciprocal, in float64 and in one launch.

    They are a tensor, since an argument would be rounded to float32. The reciprocal is finite, so that no logit becomes
    0 * inf.
    """
    coldness = min(1 / temperature, sys.float_info.max)
    return torch.linspace(temperature, coldness, 2, dtype=torch.float64, device=device)


def _strides(context: Tensor | None, width: int, height: int) -> tuple[int, int, int]:
    """Strides of the context over samples, rows and columns."""
    if context is None:
        return 0, 0, 0
    dim = context.shape[-1]
    return (dim, 0, 0) if context.dim() == 2 else (height * width * dim, width * dim, dim)


def sample(
    noise: Tensor,
    packed: Sequence[Tensor],
    plan: Any,
    context: Tensor | None,
    known_mask: Tensor | None,
    known: Tensor | None,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """Images ``[B, C, H, W]`` and parameters ``[B, P, H, W]``.

    The context is ``[B, D]`` or ``[B, H, W, D]``; all tensors are contiguous.
    """
    batch, _, height, width = noise.shape
    emit, image_channels = plan.emit, plan.image_channels
    images, params = (noise.new_empty((batch, n, height, width)) for n in (image_channels, emit.params(image_channels)))
    if noise.numel() == 0:
        return images, params
    cfg = _blocks(plan, noise)
    told = tables(plan, (height, width), cfg["BN"], cfg["BK"], noise.device)
    tiling = _tiling(noise, told.pixels, cfg.pop("BM"), cfg.pop("PER_SM"))
    pixelcnn_sample_forward_kernel[(tiling.programs,)](
        noise,
        noise if known_mask is None else known_mask.view(torch.uint8),
        noise if known is None else known,
        noise if context is None else context,
        images,
        params,
        _temperatures(temperature, noise.device),
        *packed,
        _rings(noise, told, tiling, image_channels),
        told.reads,
        told.stages,
        batch,
        height,
        width,
        plan.slope,
        told.pixels,
        tiling.samples,
        tiling.tiles,
        told.ahead + width + plan.slope * (height - 1),
        told.ahead,
        told.context_lead,
        len(plan.stages),
        told.sample_size,
        image_channels,
        params.shape[1],
        0 if context is None else context.shape[-1],
        len(told.reads) - len(plan.all_draws),
        *_strides(context, width, height),
        IN_TURN=plan.all_draws[0].after < len(plan.stages),
        HAS_CONTEXT=context is not None,
        HAS_KNOWN=known is not None,
        EMIT=emit.kind,
        LEVELS=emit.levels,
        COMPONENTS=emit.components,
        CODES_USED=codes_used(plan),
        HAS_FACTOR=any(stage.factor >= 0 for stage in plan.stages),
        HAS_STRIDES=any(stage.sites.stride > 1 for stage in plan.stages),
        HAS_NORM=any(stage.kind == "norm" for stage in plan.stages),
        PRECISION=matmul_precision(noise.dtype),
        BM=tiling.block_m,
        BG=BG,
        BC=triton.next_power_of_2(image_channels),
        BP=shrunk(cfg.pop("BP"), emit.components or emit.levels, 1),
        **cfg,
    )
    return images, params
