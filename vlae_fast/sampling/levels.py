"""Channels of a pixel that see each other: the stages of a program cut into parts, each before or behind a draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..plan import Draw, Emit, Source, Stage
from .program import Program

HERE = (0, 0)
NONE = -1  # the level of what depends on earlier pixels alone

Channels = tuple[int, ...]


class Parts(NamedTuple):
    """Stages and weights as a plan has them; no draws: one, behind the last stage."""

    stages: tuple[Stage, ...]
    weights: list[Tensor]
    draws: tuple[Draw, ...] = ()


def in_turn(program: Program, emit: Emit, size: tuple[int, int]) -> Parts:
    """The stages as they are where none reads its own pixel of the image, else parts between draws of single channels.

    A channel of a buffer has a *level*: the last channel of its own pixel of the image that it depends on, followed
    through the live weights of centre taps, or none. The parts of level none run first; then channel 0 is drawn, the
    parts of level 0 run, channel 1 is drawn, and so on. Any grouping of features by channels is found, and a colour
    image takes the steps of a grey one.

    Args:
        program: its last stage gives the parameters of the `emit`. size: (H, W).

    Raises:
        ValueError: parameters depend on a channel of their own pixel that is not drawn before them.
    """
    if not any(buffer == 0 and tap == HERE for stage in program.stages for buffer, tap in stage.reads):
        return Parts(tuple(program.stages), program.weights)
    levels = levels_of(program)
    _check(levels[-1], emit, program.image_channels)
    if levels[-1].max() == NONE:  # what reads its own pixel is read at earlier ones alone: it waits for the next step
        levels = [torch.full_like(level, NONE) for level in levels]
    return _Writer(program, _weights(program), size).parts(levels, emit)


def _weights(program: Program) -> list[list[Tensor]]:
    """The weights of each stage."""
    weights = iter(program.weights)
    return [[next(weights) for _ in range(stage.n_weights)] for stage in program.stages]


def levels_of(program: Program) -> list[Tensor]:
    """The level of each channel of each buffer, ``[C]`` each."""
    levels = [torch.arange(program.image_channels, device="cpu")]
    for stage, own in zip(program.stages, _weights(program), strict=True):
        if stage.kind != "sum":  # every channel follows from all of what is read at the pixel itself
            seen = [levels[source.buffer] for source in stage.sources if source.taps == (HERE,)]
            level = torch.cat(seen).amax().expand(stage.out_channels)
        else:
            level = torch.full((own[0].shape[0],), NONE, device="cpu")
            for source, weight in zip(stage.sources, own, strict=False):
                for tap in (t for t, offset in enumerate(source.taps) if offset == HERE):
                    read = torch.where(weight[:, :, tap].cpu() != 0, levels[source.buffer], NONE)
                    level = torch.maximum(level, read.amax(1))
            level = level.view(-1, stage.out_channels).amax(0)
        for buffer in (stage.factor, stage.residual):
            level = level if buffer < 0 else torch.maximum(level, levels[buffer])
        levels.append(level)
        if stage.joins >= 0:  # whoever reads the buffer may read any of its phases
            levels[stage.joins] = torch.maximum(level, levels[stage.joins])
    for buffer, stage in enumerate(program.stages, 1):
        levels[buffer] = levels[buffer if stage.joins < 0 else stage.joins]
    return levels


def _check(level: Tensor, emit: Emit, channels: int) -> None:
    """Raises ValueError where a parameter depends on what is not drawn before it."""
    rule = "PixelCNNSampler: decoder must"
    if channels > 1 and not emit.by_channel and level.max() > NONE:
        why = f"read only pixels before its own where channels are drawn at once, as those of {emit.kind} are"
        raise ValueError(f"{rule} {why}, got one that reads its own pixel")
    for channel in range(channels):
        seen = int(level[emit.params_of(channel, channels)].max()) if emit.by_channel else NONE
        if seen >= channel:
            why = "read only pixels before its own in raster order, and of its own the channels before"
            got = f"one that reads its own pixel: the parameters of channel {channel} depend on channel {seen} of it"
            raise ValueError(f"{rule} {why}, got {got}")


class _Part(NamedTuple):
    """Channels of a buffer as a stage of their own: of stage `buffer` - 1, or a copy of channels of a buffer."""

    buffer: int
    channels: Channels
    is_copy: bool = False


class _Writer:
    """Writes parts. A part that reads channels at its own pixel which are no part themselves gets a copy of them."""

    def __init__(self, program: Program, weights: Sequence[Sequence[Tensor]], size: tuple[int, int]) -> None:
        self.program, self.own, self.far = program, weights, (-size[0], 0)
        self.like = program.weights[-1]
        self.order: list[_Part] = []
        self.draws: list[Draw] = []
        self.parts_of: list[list[Channels]] = [[]]  # of each buffer; the image is not cut

    def parts(self, levels: Sequence[Tensor], emit: Emit) -> Parts:
        """All parts in their order, each level behind its draw."""
        channels, last = self.program.image_channels, len(self.program.stages)
        in_turn = any(level.max() > NONE for level in levels[1:])
        for level in levels[1:]:
            keys = level.tolist()
            self.parts_of.append([tuple(c for c, k in enumerate(keys) if k == key) for key in sorted(set(keys))])
        if in_turn:
            self.parts_of[last] = [tuple(emit.params_of(channel, channels)) for channel in range(channels)]
        for key in range(NONE, channels if in_turn else 0):
            for buffer in range(1, last + 1):
                for part in self.parts_of[buffer]:
                    if max(levels[buffer][c] for c in part) == key:
                        self._order(buffer, part)
            self._copy_seen([m for m, level in enumerate(levels) if level.max() == key])
            if in_turn and key + 1 < channels:
                drawn = self._index(last, tuple(emit.params_of(key + 1, channels)))
                self.draws.append(Draw(len(self.order), drawn))
        stages: list[Stage] = []
        weights: list[Tensor] = []
        for ordered in self.order:
            stage, own = self._copy(ordered) if ordered.is_copy else self._stage(ordered)
            stages.append(stage)
            weights += own
        return Parts(tuple(stages), weights, tuple(self.draws))

    def _order(self, buffer: int, channels: Channels) -> None:
        """Puts a part behind those that it reads at its own pixel."""
        stage = self.program.stages[buffer - 1]
        wanted = [(m, channels) for m in (stage.residual, stage.factor) if m >= 0]
        if stage.kind != "sum":
            wanted += [(m, self._all(m)) for m, taps in stage.sources if taps == (HERE,)]
        for m, needed in wanted:
            self._copy_unless_part(m, needed)
        self.order.append(_Part(buffer, channels))

    def _copy_seen(self, buffers: Sequence[int]) -> None:
        """Copies those of the buffers, now complete, that attention sees at earlier pixels alone."""
        for m, taps in (source for stage in self.program.stages if stage.kind == "attend" for source in stage.sources):
            if m in buffers and taps != (HERE,):
                self._copy_unless_part(m, self._all(m))

    def _copy_unless_part(self, buffer: int, channels: Channels) -> None:
        if channels not in self.parts_of[buffer] and (copy := _Part(buffer, channels, True)) not in self.order:
            self.order.append(copy)

    def _all(self, buffer: int) -> Channels:
        return tuple(range(self.program.channels(buffer)))

    def _index(self, buffer: int, channels: Channels) -> int:
        """The buffer of the plan that has these channels."""
        is_part = channels in self.parts_of[buffer]
        return self.order.index(_Part(buffer, channels, not is_part)) + 1

    def _stage(self, part: _Part) -> tuple[Stage, list[Tensor]]:
        stage, own = self.program.stages[part.buffer - 1], self.own[part.buffer - 1]
        beside = (stage.residual, stage.factor, stage.joins)
        residual, factor, joins = (-1 if m < 0 else self._index(m, part.channels) for m in beside)
        stage = stage._replace(residual=residual, factor=factor, joins=joins)
        if stage.kind != "sum":
            whole = tuple(Source(self._index(m, self._all(m)), taps) for m, taps in stage.sources)
            return stage._replace(sources=whole), list(own)
        rows = [c + half for half in range(0, own[0].shape[0], stage.out_channels) for c in part.channels]
        reads = list(zip(stage.sources, (weight[rows] for weight in own), strict=False))
        sources, weights = self._reads(reads, len(rows))
        weights += [weight[rows].contiguous() for weight in own[len(stage.sources) :]]
        return stage._replace(out_channels=len(part.channels), sources=sources), weights

    def _copy(self, part: _Part) -> tuple[Stage, list[Tensor]]:
        eye = self.like.new_ones(self.program.channels(part.buffer)).diag()[list(part.channels)]
        sources, weights = self._reads([(Source(part.buffer, (HERE,)), eye[:, :, None])], len(eye))
        sites = self.program.sites(part.buffer)
        return Stage(len(eye), "none", -1, 0, sources, sites=sites), [*weights, self.like.new_zeros(len(eye))]

    def _reads(self, reads: Sequence[tuple[Source, Tensor]], rows: int) -> tuple[tuple[Source, ...], list[Tensor]]:
        """Reads of whole buffers as reads of their parts, without centre taps all of whose weights are dead."""
        sources: list[Source] = []
        weights: list[Tensor] = []
        for source, weight in reads:
            for channels in self.parts_of[source.buffer] or [tuple(range(weight.shape[1]))]:
                own = weight[:, list(channels)]
                kept = [t for t, tap in enumerate(source.taps) if tap != HERE or own[:, :, t].any()]
                if kept:
                    index = self._index(source.buffer, channels) if source.buffer else 0
                    sources.append(Source(index, tuple(source.taps[t] for t in kept)))
                    weights.append(own[:, :, kept].contiguous())
        if not sources:  # a stage reads something: here zeros, at a tap that never lands in the image
            sources.append(Source(0, (self.far,)))
            weights.append(self.like.new_zeros(rows, self.program.image_channels, 1))
        return tuple(sources), weights
