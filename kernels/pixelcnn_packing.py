"""A plan as the sampler's kernel takes it: rings of activations, tables of reads and stages, weights in their order.

Buffer 0 is the image, s + 1 the output of stage s, and the last one the context, so that a stage's condition is one
more source. A plan is read by its attributes alone: image_channels, slope, leads, stages, all_draws, links, writers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vlae_fast.kept import kept

from .activate import ACTIVATIONS, PAIRS
from .launch import cdiv

Tap = tuple[int, int]
ALIGN = 16  # elements: every pixel of a ring starts on the 16 bytes that a load wants, in every dtype
NARROW = 8  # channels up to which a tile of K is gathered from several taps: one tap would leave most of it empty
BG = 32  # products of such a tile
FAR = 1 << 24  # a column offset that is never in the image


class Read(NamedTuple):
    """A row of the kernel's table: the place of pixels (i + dy, j + dx), (i + dy, j + dx + 1), ... of a wave.

    The first is in slot ``(u + delta) % ring`` of its ring, u counting steps, and each further one in the next slot.
    """

    base: int = 0  # elements from the start of a sample's rings to the ring and the channel in its pixels
    ring: int = 1
    stride: int = 0  # elements from a pixel to the next
    delta: int = 0
    dy: int = 0
    dx: int = FAR
    tiles: int = 0  # tiles of BK channels in all pixels; 0 where single channels are read
    unused: int = 0


NOTHING = Read(base=-ALIGN)


class Tables(NamedTuple):
    """Tables of a plan for an image of one size, on the device, and the numbers that a launch needs."""

    reads: Tensor  # [R, 8] int32: the pixel, its context, the reads of every stage, then the parameters of every draw
    stages: Tensor  # [S + 1, 15] int32, the last for the draws behind the last stage
    ahead: int  # steps before the first pixel is drawn
    context_lead: int
    pixels: int  # largest number of pixels of a wave
    sample_size: int  # elements of a sample's rings


def _round_up(n: int, to: int) -> int:
    return cdiv(n, to) * to


def channels(plan: Any) -> list[int]:
    """Channels of every buffer; the context has 0 where no stage sees it."""
    context = max(stage.context_dim for stage in plan.stages)
    return [plan.image_channels, *(stage.out_channels for stage in plan.stages), context]


def _halves(stage: Any) -> int:
    return 2 if stage.activation in PAIRS else 1


def codes_used(plan: Any) -> int:
    """Bit c is set where a stage has activation c."""
    codes = 0
    for stage in plan.stages:
        codes |= 1 << ACTIVATIONS.index(stage.activation)
    return codes


def _is_narrow(plan: Any, buffer: int) -> bool:
    return buffer <= len(plan.stages) and channels(plan)[buffer] <= NARROW


def _strides(plan: Any, bk: int) -> list[int]:
    return [_round_up(c, ALIGN if _is_narrow(plan, m) else bk) for m, c in enumerate(channels(plan))]


def _sources(plan: Any, stage: Any) -> list[tuple[int, tuple[Tap, ...]]]:
    """(buffer, taps) that a stage reads, the context last."""
    sources = [(source.buffer, tuple(source.taps)) for source in stage.sources]
    return sources + ([(len(plan.stages) + 1, ((0, 0),))] if stage.context_dim else [])


def _leads(plan: Any) -> list[int]:
    """Leads of the buffers: wave ``t + lead`` is written in step t."""
    context = [lead for stage, lead in zip(plan.stages, plan.leads, strict=True) if stage.context_dim]
    return [0, *plan.leads, max(context, default=0)]


def _is_later(plan: Any, stage: int, writer: int, tap: Tap, draw: int) -> bool:
    """True where a stage reads what is written behind it in a step; of the image (-1), by the draw of that index."""
    if writer < 0:
        return stage < plan.all_draws[0 if tap == (0, 0) else draw].after
    return stage <= writer < len(plan.stages)


def _check_leads(plan: Any, size: tuple[int, int]) -> None:
    for s, own in enumerate(plan.links):
        for writer, buffer, (dy, dx) in own:
            lead = 0 if writer < 0 else plan.leads[writer]
            latest = lead - dx - plan.slope * dy - _is_later(plan, s, writer, (dy, dx), -1)
            if abs(dy) < size[0] and abs(dx) < size[1] and plan.leads[s] > latest:
                raise ValueError(
                    f"pixelcnn_sample: plan: lead of stage {s} must be at most {latest} to read buffer "
                    f"{buffer} at ({dy}, {dx}), got {plan.leads[s]}"
                )


def _ages(plan: Any, size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """(buffer, how many waves after its own a pixel is read) of every read that can land in an image of ``size``.

    Of the stages that write a buffer, the one that is most ahead takes the place of what is read.
    """
    n, context = len(plan.stages), _leads(plan)[-1]
    for s, stage in enumerate(plan.stages):
        beside = [(buffer, ((0, 0),)) for buffer in (stage.residual, stage.factor) if buffer >= 0]
        for buffer, taps in _sources(plan, stage) + beside:
            writers = plan.writers(buffer) if buffer <= n else [n]
            for dy, dx in taps:
                if abs(dy) < size[0] and abs(dx) < size[1]:
                    for writer in writers:
                        lead = 0 if writer < 0 else context if writer == n else plan.leads[writer]
                        # the first draw of a pixel takes its place in the ring
                        later = _is_later(plan, s, writer, (dy, dx), 0)
                        yield buffer, lead - dx - plan.slope * dy - later - plan.leads[s]
    for draw in plan.all_draws:
        for writer in plan.writers(draw.buffer):
            lead, least = plan.leads[writer], int(writer >= draw.after)
            if lead < least:
                stage = f"stage {writer}, which is drawn from,"
                raise ValueError(f"pixelcnn_sample: plan: {stage} must have a lead >= {least}, got {lead}")
            yield draw.buffer, lead - least


def rings(plan: Any, size: tuple[int, int]) -> tuple[list[int], int]:
    """Waves that each buffer keeps, and pixels of a wave: the least memory that keeps a pixel until its last read.

    A pixel of wave w is in slot ``w % ring``, at place ``i % pixels`` of it. Two pixels of one wave are fewer than
    ``ceil(W / slope)`` rows apart, so their places differ. A pixel that is read ``age`` waves after its own is
    overwritten when the buffer's wave ``w + ring`` is written, and a stage writes before it is read in the same step:
    so ``ring = 1 + the largest age`` is enough, and one less is not.
    """
    height, width = size
    _check_leads(plan, size)
    waves = [1, *(int(stage.joins < 0) for stage in plan.stages), 1]  # none where a stage writes another's buffer
    for buffer, age in _ages(plan, size):
        waves[buffer] = max(waves[buffer], age + 1)
    return waves, min(height, cdiv(width, plan.slope)) if plan.slope else height


def _stage_reads(plan: Any, stage: Any) -> tuple[list[tuple[int, Tap, int]], list[tuple[int, Tap, int]]]:
    """Reads of a stage in the order of the packed weights: gathered channels, then runs.

    A gathered channel is (buffer, tap, channel). A run is (buffer, first tap, number of taps): taps of one row, each
    the right neighbour of the one before.
    """
    gathered: list[tuple[int, Tap, int]] = []
    runs: list[tuple[int, Tap, int]] = []
    if stage.kind == "norm":  # no products
        return gathered, runs
    for buffer, taps in _sources(plan, stage):
        if _is_narrow(plan, buffer):
            gathered += [(buffer, tap, c) for tap in taps for c in range(channels(plan)[buffer])]
            continue
        start = len(runs)
        for dy, dx in taps:
            if len(runs) > start and runs[-1][1] == (dy, dx - runs[-1][2]):
                runs[-1] = (*runs[-1][:2], runs[-1][2] + 1)
            else:
                runs.append((buffer, (dy, dx), 1))
    return gathered, runs


def _columns(values: Tensor, halves: int, columns: int) -> Tensor:
    """``[..., P]`` -> ``[..., columns]``: the halves of a pair interleaved, zeros after the last channel.

    Once interleaved, both halves of a channel are in one thread after one product.
    """
    values = values.unflatten(-1, (halves, -1)).transpose(-1, -2).flatten(-2)
    return F.pad(values, (0, columns - values.shape[-1]))


def _tiles(rows: Tensor, k: int, bn: int) -> Tensor:
    """``[K, columns]`` -> ``[tiles of columns, K * bn]``, in tiles ``[k, bn]``; zeros after the last row."""
    rows = F.pad(rows, (0, 0, 0, -len(rows) % k))
    return rows.unflatten(1, (-1, bn)).transpose(0, 1).flatten(1)


def pack(weights: Sequence[Tensor], plan: Any, bn: int, bk: int) -> list[Tensor]:
    """Weights as tiles ``[BG, BN]``, then ``[BK, BN]``, of every tile of columns of every stage; and the biases.

    Of a norm the gain is a row of each tile, and its eps stands in a tile behind the biases.
    """
    left, panels, biases = iter(weights), [], []
    for stage, stride in zip(plan.stages, _strides(plan, bk)[1:], strict=False):
        if stage.kind == "norm":
            gain, bias, eps = (next(left).detach() for _ in range(3))
            columns = _round_up(stride, bn)
            panels.append(_columns(gain, 1, columns))
            biases += [_columns(bias, 1, columns), eps.expand(bn)]
            continue
        halves = _halves(stage)
        columns = _round_up(halves * stride, bn)
        own = [next(left) for _ in stage.sources]  # [P, C_in, taps]
        biases.append(_columns(next(left).detach(), halves, columns))
        own += [next(left)[:, :, None]] if stage.context_dim else []
        gathered: list[Tensor] = []
        runs: list[Tensor] = []
        for (buffer, _), weight in zip(_sources(plan, stage), own, strict=True):
            rows = _columns(weight.detach().permute(2, 1, 0), halves, columns)  # [taps, C_in, columns]
            if _is_narrow(plan, buffer):
                gathered.append(rows.flatten(0, 1))
            else:
                runs.append(F.pad(rows, (0, 0, 0, -rows.shape[1] % bk)).flatten(0, 1))
        tiles = [_tiles(torch.cat(rows), k, bn) for rows, k in ((gathered, BG), (runs, bk)) if rows]
        panels.append(torch.cat(tiles, 1).flatten())
    return [torch.cat(panels), torch.cat(biases)]


@cache  # a captured graph knows the addresses of the tables
def tables(plan: Any, size: tuple[int, int], bn: int, bk: int, device: torch.device) -> Tables:
    """Tables of a plan; kept, so that a later call copies nothing to the device."""
    waves, pixels = rings(plan, size)
    strides, leads, ahead = _strides(plan, bk), _leads(plan), max(0, *plan.leads)
    bases = [0]
    for ring, stride in zip(waves, strides, strict=True):
        bases.append(bases[-1] + ring * pixels * stride)
    if bases[-1] >= 1 << 31:
        raise ValueError(f"pixelcnn_sample: plan must keep fewer than 2^31 values per sample, got {bases[-1]}")

    def read(buffer: int, lead: int, tap: Tap = (0, 0), *, channel: int = 0, taps: int = 0) -> Read:
        dy, dx = tap
        delta = (lead - ahead + dx + plan.slope * dy) % waves[buffer]
        tiles = taps * strides[buffer] // bk
        return Read(bases[buffer] + channel, waves[buffer], strides[buffer], delta, dy, dx, tiles)

    n, draws = len(plan.stages), plan.all_draws
    reads, stages = [read(0, 0), read(n + 1, leads[n + 1])], []
    weight = bias = 0
    for s, (stage, lead) in enumerate(zip(plan.stages, plan.leads, strict=True)):
        gathered, runs = _stage_reads(plan, stage)
        first, own = len(reads), [read(m, lead, tap, channel=c) for m, tap, c in gathered]
        own += [Read()] * (-len(own) % BG)
        n_gathered = len(own) // BG
        own += [read(m, lead, tap, taps=n) for m, tap, n in runs]
        beside = (read(buffer, lead) if buffer >= 0 else NOTHING for buffer in (stage.residual, stage.factor))
        reads += [*own, read(stage.writes(s), lead), *beside]
        normed = stage.out_channels if stage.kind == "norm" else 0
        reads += [read(stage.sources[0].buffer, lead)] if normed else []
        depth = 1 if normed else n_gathered * BG + sum(r.tiles for r in own) * bk
        columns = cdiv(_halves(stage) * strides[s + 1], bn)
        code = ACTIVATIONS.index(stage.activation)
        drawn = (sum(draw.after < s for draw in draws), sum(draw.after <= s for draw in draws))
        packed = (first, n_gathered, len(runs), columns, weight, bias, depth)
        stages.append((ahead - lead, code, *packed, *drawn, *stage.sites, normed))
        weight += depth * columns
        bias += (columns + (normed > 0)) * bn

    stages.append((0,) * 9 + (sum(draw.after < n for draw in draws), len(draws), 1, 0, 0, 0))
    reads += [read(draw.buffer, 0) for draw in draws]

    def on_device(rows: Sequence[tuple[int, ...]]) -> Tensor:
        return kept(device, lambda: torch.tensor(rows, dtype=torch.int32, device=device))

    return Tables(on_device(reads), on_device(stages), ahead, leads[n + 1], pixels, bases[-1])
