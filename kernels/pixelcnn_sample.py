"""The whole sampling loop of `pixelcnn_sample` in one launch.

A program owns a tile of samples and walks the schedule, stage by stage and wave by wave. Rows of a product are samples
x pixels of the wave, so that a wave of one sample still fills a matrix instruction. Between its stages a program waits
for itself alone: activations go through rings that it alone touches, a few waves deep, small enough to stay in cache.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Config, cdiv, config, matmul_precision, shrunk
from .pixelcnn_draw import draw_block
from .pixelcnn_layout import BG, NARROW, Layout, channels, layout
from .pixelcnn_layout import pack as pack_tiles
from .pixelcnn_stage import FIELDS, own_pixels, place_of, stage_block, wave_rows

STAGE_FIELDS = tl.constexpr(9)  # of a row of `Layout.stages`
CONTEXT = tl.constexpr(2)  # the row of `Layout.reads`


@triton.jit
def _context_block(p_context, p_ring, p_table, o_m, u, w, sample0, sample_size, dim, strides, shape, BK: tl.constexpr):
    """Copies the context of a block of pixels of wave w into its ring, zeros after its last channel."""
    _, H, _, _, pixels, _ = shape
    stride_b, stride_i, stride_j = strides
    o_s, o_q, top, o_i, o_j, m_m = wave_rows(o_m, w, sample0, shape)
    own = own_pixels(p_table + CONTEXT * FIELDS, u, place_of(top, o_q, H, pixels), pixels)
    p_to = (p_ring + o_s * sample_size + own)[:, None]
    p_from = (p_context + (sample0 + o_s).to(tl.int64) * stride_b + o_i * stride_i + o_j * stride_j)[:, None]
    for d in tl.range(0, dim, BK, num_stages=1):
        o_d = d + tl.arange(0, BK)[None, :]
        b_z = tl.load(p_from + o_d, mask=m_m[:, None] & (o_d < dim), other=0.0)
        tl.store(p_to + o_d, b_z, mask=m_m[:, None])


@triton.jit(do_not_specialize=["B", "n_tiles", "stride_b", "stride_i", "stride_j"])
def _sample_kernel(
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
    stride_b,
    stride_i,
    stride_j,
    HAS_CONTEXT: tl.constexpr,
    HAS_KNOWN: tl.constexpr,
    EMIT: tl.constexpr,
    LEVELS: tl.constexpr,
    COMPONENTS: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    BG: tl.constexpr,
    BC: tl.constexpr,
    BP: tl.constexpr,
):
    shape = (B, H, W, slope, pixels, samples)
    strides = (stride_b, stride_i, stride_j)
    rows = samples * pixels
    p_ring = p_rings + tl.program_id(0).to(tl.int64) * samples * sample_size
    for tile in tl.range(tl.program_id(0), n_tiles, tl.num_programs(0), num_stages=1):
        sample0 = tile * samples
        for u in tl.range(0, steps, num_stages=1):
            if HAS_CONTEXT:
                for o in tl.range(0, rows, BM, num_stages=1):
                    _context_block(
                        p_context, p_ring, p_table, o + tl.arange(0, BM), u, u - ahead + context_lead,
                        sample0, sample_size, dim, strides, shape, BK,
                    )  # fmt: skip
                tl.debug_barrier()
            for s in tl.range(0, n_stages, num_stages=1):
                p_stage = p_stages + s * STAGE_FIELDS
                w = u - tl.load(p_stage)
                activation = tl.load(p_stage + 1)
                p_reads = p_table + tl.load(p_stage + 2) * FIELDS
                n_gathered, n_runs, columns = tl.load(p_stage + 3), tl.load(p_stage + 4), tl.load(p_stage + 5)
                p_w = p_weight + tl.load(p_stage + 6).to(tl.int64) * BN
                p_b = p_bias + tl.load(p_stage + 7)
                depth = tl.load(p_stage + 8)  # rows of BN weights for a tile of columns
                for o in tl.range(0, rows, BM, num_stages=1):
                    o_m = o + tl.arange(0, BM)
                    for n in tl.range(0, columns, num_stages=1):
                        stage_block(
                            p_ring, p_w + n * depth * BN, p_b + n * BN, p_reads, n_gathered, n_runs, o_m, n, u, w,
                            activation, sample0, sample_size, shape, PRECISION, BM, BN, BK, BG,
                        )  # fmt: skip
                tl.debug_barrier()  # the next stage loads what other threads have stored
            for o in tl.range(0, rows, BM, num_stages=1):
                draw_block(
                    p_noise, p_mask, p_known, p_images, p_params, p_ring, p_table, o + tl.arange(0, BM), u, u - ahead,
                    p_temperature, sample0, sample_size, channels, params, shape,
                    HAS_KNOWN, EMIT, LEVELS, COMPONENTS, BC, BP,
                )  # fmt: skip
            tl.debug_barrier()


def _blocks(plan: Any, like: Tensor) -> Config:
    """Block sizes for a plan. They, and so the packed weights and the order of additions, know nothing of the batch."""
    *read, params, context = channels(plan)
    widest = max(*read, context)  # but for the parameters, which no stage reads: they may be hundreds a pixel
    cfg = config("pixelcnn_sample", like, widest)
    gated = any(stage.activation == "gate" for stage in plan.stages)
    columns = max(widest * (2 if gated else 1), params)
    return cfg | {"BN": shrunk(cfg["BN"], columns), "BK": shrunk(cfg["BK"], widest)}


def pack(weights: Sequence[Tensor], plan: Any) -> list[Tensor]:
    """The weights in the tiles that the kernel reads, one after the other."""
    cfg = _blocks(plan, weights[0])
    return pack_tiles(weights, plan, cfg["BN"], cfg["BK"])


def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2


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
    cfg, processors, precision = _blocks(plan, noise), _processors(noise.device), matmul_precision(noise.dtype)
    bn, bk, per_processor = cfg.pop("BN"), cfg.pop("BK"), cfg.pop("PER_SM")
    told: Layout = layout(plan, (height, width), bn, bk, noise.device)
    bm = cfg.pop("BM")
    if precision == "ieee" and noise.dtype == torch.float32:
        # every row adds its products one by one whatever the block: rows that would be empty need not be computed
        bm = shrunk(bm, cdiv(batch, processors) * told.pixels)
    samples = max(1, bm // told.pixels)
    tiles = cdiv(batch, samples)
    programs = min(tiles, per_processor * processors)
    # of an image that is read in whole tiles nothing writes the channels after its last
    new = noise.new_zeros if image_channels > NARROW else noise.new_empty
    rings = new(programs * samples * told.sample_size)
    # a tensor, for an argument would be rounded to float32; finite, for no logit may become 0 * inf; made in one launch
    coldness = min(1 / temperature, sys.float_info.max)
    temperatures = torch.linspace(temperature, coldness, 2, dtype=torch.float64, device=noise.device)
    strides = (0, 0, 0)
    if context is not None:
        dim = context.shape[-1]
        strides = (dim, 0, 0) if context.dim() == 2 else (height * width * dim, width * dim, dim)
    _sample_kernel[(programs,)](
        noise,
        noise if known_mask is None else known_mask.view(torch.uint8),
        noise if known is None else known,
        noise if context is None else context,
        images,
        params,
        temperatures,
        *packed,
        rings,
        told.reads,
        told.stages,
        batch,
        height,
        width,
        plan.slope,
        told.pixels,
        samples,
        tiles,
        told.ahead + width + plan.slope * (height - 1),
        told.ahead,
        told.context_lead,
        len(plan.stages),
        told.sample_size,
        image_channels,
        params.shape[1],
        0 if context is None else context.shape[-1],
        *strides,
        HAS_CONTEXT=context is not None,
        HAS_KNOWN=known is not None,
        EMIT=emit.kind,
        LEVELS=emit.levels,
        COMPONENTS=emit.components,
        PRECISION=precision,
        BM=bm,
        BN=bn,
        BK=bk,
        BG=BG,
        BC=triton.next_power_of_2(image_channels),
        BP=shrunk(cfg.pop("BP"), emit.components or emit.levels, 1),
        **cfg,
    )
    return images, params
