"""Where pixels lie in memory: those of a wave side by side, so that what a stage writes in a step is one stretch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ...masks import Offset
from ...plan import EVERYWHERE, Plan, Sites

Size = tuple[int, int]


class Action(NamedTuple):
    """A part of a stage or of a draw: what it does in one step."""

    number: int  # of the stage, or of the draw
    is_draw: bool
    part: int  # its number among the parts of that stage or draw that have pixels


class Parts(NamedTuple):
    """The pixels that a stage computes, or that a draw draws, cut by steps."""

    places: Tensor  # of all pixels, in the order of parts; on the CPU
    counts: list[int]  # pixels of each part, at least 1
    steps: list[int]  # of each part
    is_stretch: bool  # the places are 0, 1, 2, ...


class Places:
    """The order of an image's pixels by waves ``j + slope * i``, and the places that each part reads.

    Pixel (i, j) has a place from 0 to H W - 1; place H W holds zeros, and what lies outside of the image is read there.
    """

    def __init__(self, plan: Plan, size: Size) -> None:
        height, width = size
        self.n_pixels, self.n_steps = height * width, width + plan.slope * (height - 1)
        every = torch.arange(self.n_pixels, device="cpu")
        rows, columns = every // width, every % width
        self.pixels = (columns + plan.slope * rows).argsort(stable=True)  # of each place, counted in raster order
        self.of_pixel = torch.empty_like(self.pixels)
        self.of_pixel[self.pixels] = every
        self._size, self._rows, self._columns = size, rows[self.pixels], columns[self.pixels]
        self._waves = self._columns + plan.slope * self._rows
        self.stages = [self._parts(stage.sites, lead) for stage, lead in zip(plan.stages, plan.leads, strict=True)]
        self.drawn = self._parts(EVERYWHERE, 0)
        self.actions = self._actions([draw.after for draw in plan.all_draws])

    def _parts(self, sites: Sites, lead: int) -> Parts:
        """A stage computes wave ``step + lead`` of its sites, in the first step those before it, too."""
        at_sites = (self._rows % sites.stride == sites.row) & (self._columns % sites.stride == sites.column)
        places = at_sites.nonzero().flatten()
        last = torch.arange(self.n_steps, device="cpu") + lead
        counts = torch.searchsorted(self._waves[places], last, right=True).diff(prepend=last.new_zeros(1))
        steps = counts.nonzero().flatten()
        return Parts(places[: int(counts.sum())], counts[steps].tolist(), steps.tolist(), sites == EVERYWHERE)

    def _actions(self, drawn_after: Sequence[int]) -> list[Action]:
        """All parts in the order in which they run."""
        found = []
        for number, after in enumerate(drawn_after):  # in a step a draw comes before the stage that stands behind it
            found += [((step, after, 0, number), part) for part, step in enumerate(self.drawn.steps)]
        for number, parts in enumerate(self.stages):
            found += [((step, number, 1, number), part) for part, step in enumerate(parts.steps)]
        return [Action(key[3], key[2] == 0, part) for key, part in sorted(found)]

    def read(self, parts: Parts, taps: Sequence[Offset]) -> Tensor:
        """The places ``[pixels, taps]`` that are read at taps from the pixels of some parts."""
        height, width = self._size
        own, offsets = parts.places, torch.tensor(taps, dtype=torch.int64, device="cpu").view(-1, 2)
        rows, columns = self._rows[own, None] + offsets[:, 0], self._columns[own, None] + offsets[:, 1]
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        pixels = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
        return self.of_pixel[pixels].where(inside, self.n_pixels)

    def seen(self, parts: Parts, tap: Offset) -> tuple[Tensor, list[int]]:
        """What attention sees: the last pixel in raster order for each of the parts' pixels, -1 for none.

        And for each part how many of the first places hold all that its pixels see.
        """
        last = self.pixels[parts.places] + tap[1]
        ends = self.of_pixel.cummax(0).values[last.clamp(min=0)] + 1
        return last, [int(own.max()) for own in ends.split(parts.counts)]


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # what is kept serves calls in any mode
def places_of(plan: Plan, size: Size) -> Places:
    """The places of a plan on an image of size (H, W)."""
    return Places(plan, size)


@lru_cache(maxsize=4)
@torch.inference_mode(False)
def indices_of(plan: Plan, size: Size, batch: int, device: torch.device) -> Indices:
    """The places of a plan as indices of rows, B samples side by side at a place."""
    return Indices(plan, places_of(plan, size), batch, device)


class Indices:
    """Indices of the rows of caches ``[places * B, C]`` that the parts of stages read and write, on a device."""

    def __init__(self, plan: Plan, places: Places, batch: int, device: torch.device) -> None:
        self._batch, self._device = batch, device
        self.of_pixel = places.of_pixel.to(device)
        self.pixels = places.pixels.to(device)
        self.own: list[list[Tensor] | None] = []  # of each stage the rows of its pixels; None: they are a stretch
        self.sources: list[list[list[Tensor] | None]] = []  # of each source what it reads, likewise
        for stage, parts in zip(plan.stages, places.stages, strict=True):
            own = None if parts.is_stretch else self._rows(parts.places[:, None], parts)
            self.own.append(own)
            self.sources.append(
                [
                    own if source.taps == ((0, 0),) else self._rows(places.read(parts, source.taps).int(), parts)
                    for source in stage.sources
                ]
            )

    def _rows(self, places: Tensor, parts: Parts) -> list[Tensor]:
        """Rows of places ``[pixels, taps]`` in the order of pixel, sample, tap, for each part."""
        samples = torch.arange(self._batch, dtype=places.dtype, device="cpu")
        rows = (places[:, None] * self._batch + samples[:, None]).flatten()
        each = self._batch * places.shape[1]
        return list(rows.to(self._device).split([count * each for count in parts.counts]))
