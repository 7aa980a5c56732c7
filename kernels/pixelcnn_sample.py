"""The whole sampling loop of `pixelcnn_sample` in one launch.

A program owns a tile of samples and walks the schedule, stage by stage and wave by wave. Rows of a product are samples x
pixels of the wave, so that a wave of one sample still fills a matrix instruction. Between its stages the program only waits
for itself: activations go through rings that it alone touches, a few waves deep, which stay in its cache.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .activate import activate, tanh
from .launch import Config, config, configs_of, conv_precision, shrunk
from .pixelcnn_layout import BG, Layout, channels, layout
from .pixelcnn_layout import pack as pack_tiles

FIELDS, STAGE_FIELDS = tl.constexpr(8), tl.constexpr(9)  # of a row of the tables
OUT, RESIDUAL = tl.constexpr(0), tl.constexpr(1)  # the two rows after a stage's runs
LOGITS, IMAGE, CONTEXT = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)  # the table's first rows
RELU, ELU, GATE = tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)


@triton.jit
def _wave_rows(o_m, w, sample0, shape):
    """Sample, place in the wave, row and column of a block's pixels of wave w, [BM] each, and which of them exist."""
    B, H, W, slope, pixels, samples = shape
    o_s = o_m // pixels
    o_q = o_m % pixels
    top = tl.maximum(0, (w - W + slope) // tl.maximum(slope, 1))  # rows above are past their last column
    o_i = top + o_q
    o_j = w - slope * o_i
    m_m = (o_s < samples) & (sample0 + o_s < B) & (o_i < H) & (o_j >= 0) & (o_j < W)
    return o_s, o_q, top, o_i, o_j, m_m


@triton.jit
def _place(row, o_q, shape):
    """Places in a slot of the rings of the rows ``row + o_q``: their remainders of division by ``pixels``."""
    B, H, W, slope, pixels, samples = shape
    place = (row + pixels * H) % pixels + o_q  # pixels * H: no remainder of a negative number
    return tl.where(place >= pixels, place - pixels, place)


@triton.jit
def _own(p_read, u, o_place, pixels):
    """Where a wave's own pixels are, [BM]: a multiple of 16 elements from the start of the sample's rings."""
    slot = (u + tl.load(p_read + 3)) % tl.load(p_read + 1)
    return tl.multiple_of(tl.load(p_read) + (slot * pixels + o_place) * tl.load(p_read + 2), 16)


@triton.jit
def _finish(b_out, p_row, p_own, u, o_place, m_m, o_c, pixels):
    """Adds the residual, where the stage has one, and stores channels o_c of a wave's pixels."""
    m = m_m[:, None] & (o_c[None, :] < tl.multiple_of(tl.load(p_own + OUT * FIELDS + 2), 16))
    residual = _own(p_own + RESIDUAL * FIELDS, u, o_place, pixels)[:, None]
    b_old = tl.load(p_row[:, None] + residual + o_c[None, :], mask=m & (residual >= 0), other=0.0)
    b_out = (b_out + b_old.to(tl.float32)).to(p_row.dtype.element_ty)
    tl.store(p_row[:, None] + _own(p_own + OUT * FIELDS, u, o_place, pixels)[:, None] + o_c[None, :], b_out, mask=m)


@triton.jit
def _stage_block(
    p_ring,  # of the program
    p_weight,  # of the tile of columns
    p_bias,
    p_reads,  # of the stage
    n_gathered,
    n_runs,
    o_m,
    n,
    u,
    w,
    activation,
    sample0,
    sample_size,
    shape,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    BG: tl.constexpr,
):
    """A block of pixels x a tile of columns of one stage."""
    B, H, W, slope, pixels, samples = shape
    o_s, o_q, top, o_i, o_j, m_m = _wave_rows(o_m, w, sample0, shape)
    p_row = p_ring + o_s * sample_size
    o_n, o_k, o_g = tl.arange(0, BN)[None, :], tl.arange(0, BK), tl.arange(0, BG)
    b_out = tl.zeros((BM, BN), tl.float32)
    o_w = o_g[:, None] * BN + o_n  # [BG, BN]
    for k in tl.range(0, n_gathered, num_stages=1):
        p_read = p_reads + (k * BG + o_g[None, :]) * FIELDS
        dy, dx = tl.load(p_read + 4), tl.load(p_read + 5)
        slot = (u + tl.load(p_read + 3)) % tl.load(p_read + 1)
        offset = tl.load(p_read) + (slot * pixels + _place(top + dy, o_q[:, None], shape)) * tl.load(p_read + 2)
        i, j = o_i[:, None] + dy, o_j[:, None] + dx
        m_x = m_m[:, None] & (i >= 0) & (i < H) & (j >= 0) & (j < W)
        b_x = tl.load(p_row[:, None] + offset, mask=m_x, other=0.0)  # [BM, BG]: any taps, any channels
        b_out = tl.dot(b_x, tl.load(p_weight + o_w), b_out, input_precision=PRECISION)
        p_weight += BG * BN
    o_w = o_k[:, None] * BN + o_n  # [BK, BN]
    for r in tl.range(0, n_runs, num_stages=1):
        p_read = p_reads + (n_gathered * BG + r) * FIELDS
        ring, stride, delta, dx = tl.load(p_read + 1), tl.load(p_read + 2), tl.load(p_read + 3), tl.load(p_read + 5)
        row = top + tl.load(p_read + 4)
        offset = tl.load(p_read) + _place(row, o_q, shape) * stride
        m_i = m_m & (row + o_q >= 0) & (row + o_q < H)
        per_pixel = stride // BK
        for k in tl.range(0, tl.load(p_read + 6)):
            tap = k // per_pixel
            at = offset + (u + delta + tap) % ring * (pixels * stride) + (k - tap * per_pixel) * BK
            j = o_j + dx + tap
            p_x = p_row[:, None] + tl.multiple_of(at, 16)[:, None] + o_k[None, :]
            b_x = tl.load(p_x, mask=(m_i & (j >= 0) & (j < W))[:, None], other=0.0)  # [BM, BK]: channels of one tap
            b_out = tl.dot(b_x, tl.load(p_weight + o_w), b_out, input_precision=PRECISION)
            p_weight += BK * BN
    b_out += tl.load(p_bias + o_n).to(tl.float32)
    p_own = p_reads + (n_gathered * BG + n_runs) * FIELDS
    o_place = _place(top, o_q, shape)
    if activation == GATE:
        b_a, b_b = tl.split(tl.reshape(b_out, (BM, BN // 2, 2)))
        o_c = n * (BN // 2) + tl.arange(0, BN // 2)
        _finish(tanh(b_a) * tl.sigmoid(b_b), p_row, p_own, u, o_place, m_m, o_c, pixels)
    else:
        if activation == RELU:
            b_out = activate(b_out, "relu")
        elif activation == ELU:
            b_out = activate(b_out, "elu")
        _finish(b_out, p_row, p_own, u, o_place, m_m, n * BN + tl.arange(0, BN), pixels)


@triton.jit
def _draw_block(
    p_noise,
    p_mask,
    p_known,
    p_images,
    p_logits,
    p_ring,
    p_table,
    o_m,
    u,
    w,
    coldness,
    sample0,
    sample_size,
    channels,
    shape,
    HAS_KNOWN: tl.constexpr,
    BC: tl.constexpr,
):
    """Draws a block of pixels of wave w: 1 where noise < sigmoid(logit / temperature), in float64."""
    B, H, W, slope, pixels, samples = shape
    o_s, o_q, top, o_i, o_j, m_m = _wave_rows(o_m, w, sample0, shape)
    o_place = _place(top, o_q, shape)
    o_c = tl.arange(0, BC)[None, :]
    p_row = (p_ring + o_s * sample_size)[:, None] + o_c  # [BM, BC]
    m_c = m_m[:, None] & (o_c < channels)
    o = (((sample0 + o_s).to(tl.int64)[:, None] * channels + o_c) * H + o_i[:, None]) * W + o_j[:, None]
    b_noise = tl.load(p_noise + o, mask=m_c, other=0.0).to(tl.float64)
    b_logit = tl.load(p_row + _own(p_table + LOGITS * FIELDS, u, o_place, pixels)[:, None], mask=m_c, other=0.0)
    b_odds = tl.exp(-b_logit.to(tl.float64) * coldness)  # of a zero; a division would cost registers for a call
    b_image = (b_noise * (1.0 + b_odds) < 1.0).to(p_ring.dtype.element_ty)
    if HAS_KNOWN:
        b_known = tl.load(p_known + o, mask=m_c, other=0.0)
        b_image = tl.where(tl.load(p_mask + o, mask=m_c, other=0) != 0, b_known, b_image)
    tl.store(p_row + _own(p_table + IMAGE * FIELDS, u, o_place, pixels)[:, None], b_image, mask=m_c)
    tl.store(p_images + o, b_image, mask=m_c)
    tl.store(p_logits + o, b_logit, mask=m_c)


@triton.jit
def _context_block(p_context, p_ring, p_table, o_m, u, w, sample0, sample_size, dim, strides, shape, BK: tl.constexpr):
    """Copies the context of a block of pixels of wave w into its ring, zeros after its last channel."""
    B, H, W, slope, pixels, samples = shape
    stride_b, stride_i, stride_j = strides
    o_s, o_q, top, o_i, o_j, m_m = _wave_rows(o_m, w, sample0, shape)
    own = _own(p_table + CONTEXT * FIELDS, u, _place(top, o_q, shape), pixels)
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
    p_logits,
    p_coldness,
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
    dim,
    stride_b,
    stride_i,
    stride_j,
    HAS_CONTEXT: tl.constexpr,
    HAS_KNOWN: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    BG: tl.constexpr,
    BC: tl.constexpr,
):
    shape = (B, H, W, slope, pixels, samples)
    strides = (stride_b, stride_i, stride_j)
    rows = samples * pixels
    p_ring = p_rings + tl.program_id(0).to(tl.int64) * samples * sample_size
    coldness = tl.load(p_coldness)
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
                        _stage_block(
                            p_ring, p_w + n * depth * BN, p_b + n * BN, p_reads, n_gathered, n_runs, o_m, n, u, w,
                            activation, sample0, sample_size, shape, PRECISION, BM, BN, BK, BG,
                        )  # fmt: skip
                tl.debug_barrier()  # the next stage loads what other threads have stored
            for o in tl.range(0, rows, BM, num_stages=1):
                _draw_block(
                    p_noise, p_mask, p_known, p_images, p_logits, p_ring, p_table, o + tl.arange(0, BM), u, u - ahead,
                    coldness, sample0, sample_size, channels, shape, HAS_KNOWN, BC,
                )  # fmt: skip
            tl.debug_barrier()


def _blocks(plan: Any, like: Tensor) -> Config:
    """Block sizes for a plan. They, and so the packed weights and the order of additions, know nothing of the batch."""
    widest = max(channels(plan))
    cfg = config("pixelcnn_sample", like, widest)
    gated = any(stage.activation == "gate" for stage in plan.stages)
    return cfg | {"BN": shrunk(cfg["BN"], widest * (2 if gated else 1)), "BK": shrunk(cfg["BK"], widest)}


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
    """Images and logits ``[B, C, H, W]``. The context is ``[B, D]`` or ``[B, H, W, D]``; all tensors are contiguous."""
    batch, image_channels, height, width = noise.shape
    images, logits = torch.empty_like(noise), torch.empty_like(noise)
    if noise.numel() == 0:
        return images, logits
    cfg, processors, precision = _blocks(plan, noise), _processors(noise.device), conv_precision(noise.dtype)
    bn, bk, per_processor = cfg.pop("BN"), cfg.pop("BK"), cfg.pop("PER_SM")
    told: Layout = layout(plan, (height, width), bn, bk, noise.device)
    bm = cfg.pop("BM")
    if precision == "ieee" and noise.dtype == torch.float32:
        # every row adds its products one by one whatever the block: rows that would be empty need not be computed
        bm = shrunk(bm, -(-batch // processors) * told.pixels)
    samples = max(1, bm // told.pixels)
    tiles = -(-batch // samples)
    programs = min(tiles, per_processor * processors)
    rings = noise.new_empty(programs * samples * told.sample_size)
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
        logits,
        # a tensor, for an argument would be rounded to float32; finite, for no logit may become 0 * inf
        noise.new_full((1,), min(1 / temperature, sys.float_info.max), dtype=torch.float64),
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
        0 if context is None else context.shape[-1],
        *strides,
        HAS_CONTEXT=context is not None,
        HAS_KNOWN=known is not None,
        PRECISION=precision,
        BM=bm,
        BN=bn,
        BK=bk,
        BG=BG,
        BC=triton.next_power_of_2(image_channels),
        **cfg,
    )
    return images, logits


def aot_cases() -> Iterator[tuple[str, Any, dict[str, str], dict[str, Any], dict[str, int]]]:
    """Every shipped configuration at 64 channels with a context: (name, kernel, signature, constants, options)."""
    pointers = {"p_mask": "*u8", "p_coldness": "*fp64", "p_table": "*i32", "p_stages": "*i32"}
    short = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
    for dtype in short:
        for precision in ("ieee", "tf32") if dtype == torch.float32 else ("ieee",):
            cfg = configs_of("pixelcnn_sample", dtype, (64,), "aot")
            cfg.pop("PER_SM")
            blocks = {key: cfg.pop(key) for key in ("BM", "BN", "BK")}
            constants = {**blocks, "BG": BG, "BC": 1, "HAS_CONTEXT": True, "HAS_KNOWN": False, "PRECISION": precision}
            names = [name for name in _sample_kernel.arg_names if name not in constants]
            signature = {n: pointers.get(n, "*" + short[dtype]) if n.startswith("p_") else "i32" for n in names}
            name = f"pixelcnn_sample/{precision}/{str(dtype).removeprefix('torch.')}"
            yield name, _sample_kernel, signature, constants, cfg
