"""The sampler: a plan's stages and draws part by part, every activation computed once.

A wave of the batch is one matrix: rows are pixels x samples, columns the channels that the taps read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...plan import Plan
from ..float64 import device_of_float64
from .pixelcnn_draw import Known, draw
from .pixelcnn_places import Action, Size, indices_of, places_of
from .pixelcnn_stage import Memory, StageRun

_BYTES = {"cpu": 1 << 27}  # of the caches and indices of a chunk of the batch
_BYTES_ELSEWHERE = 1 << 30


def pixelcnn_pack(weights: Sequence[Tensor], plan: Plan) -> list[Tensor]:
    """The weights as the products read them: ``[taps * C, P]`` of a source, ``[D, P]`` of the context."""
    left, packed = iter(weights), []
    for stage in plan.stages:
        own = [next(left).detach() for _ in range(stage.n_weights)]
        if stage.kind == "sum":
            n = len(stage.sources)
            own[:n] = [w.permute(2, 1, 0).flatten(0, 1) for w in own[:n]]
            own[n + 1 :] = [w.T for w in own[n + 1 :]]
        elif stage.kind == "norm":
            own[2] = own[2].cpu()  # a number to its function
        packed += [w.clone(memory_format=torch.contiguous_format) for w in own]
    return packed


def chunks_of(plan: Plan, size: Size, batch: int, like: Tensor) -> list[slice]:
    """The batch in chunks of nearly one size, whose caches and indices are of a limited size.

    like: a tensor of the dtype and device of the images.
    """
    channels = plan.image_channels + sum(stage.out_channels for stage in plan.stages)
    reads = sum(len(source.taps) for stage in plan.stages for source in stage.sources)
    most = _BYTES.get(like.device.type, _BYTES_ELSEWHERE)
    n = -(-batch * size[0] * size[1] * (channels * like.itemsize + 4 * reads) // most)
    n = max(1, min(n, batch))
    return [slice(batch * i // n, batch * (i + 1) // n) for i in range(n)]


class Chunk:
    """A run of the plan on some samples, which stops before each draw.

    Args:
        packed, plan: as in `vlae_fast.ops.pixelcnn_sample`. context: of these samples. like: a tensor of their dtype
            and device.
    """

    def __init__(
        self, packed: Sequence[Tensor], plan: Plan, context: Tensor | None, batch: int, size: Size, like: Tensor
    ) -> None:
        self.plan, self.size, self.batch = plan, size, batch
        places, indices = places_of(plan, size), indices_of(plan, size, batch, like.device)
        self.memory = Memory(plan, places, indices, context, batch, like)
        left = iter(packed)
        own = [[next(left) for _ in range(stage.n_weights)] for stage in plan.stages]
        self._stages = [StageRun(plan, s, weights, self.memory) for s, weights in enumerate(own)]
        self._actions: Iterator[Action] = iter(places.actions)
        self._params = [self.by_part(self._by_place(self.memory.caches[drawn.buffer])[:-1]) for drawn in plan.all_draws]
        channels, image = plan.image_channels, self._by_place(self.memory.caches[0])
        self.channels = [slice(0, channels)]
        if len(plan.all_draws) > 1:
            self.channels = [slice(c, c + 1) for c in range(channels)]
        self._pixels = [self.by_part(image[:-1, :, of_draw]) for of_draw in self.channels]

    def _by_place(self, cache: Tensor) -> Tensor:
        """``[places, B, C]``, a view; the last place is that of zeros."""
        return cache.view(self.memory.places.n_pixels + 1, self.batch, cache.shape[1])

    def by_part(self, values: Tensor) -> list[Tensor]:
        """Values ``[places, B, n]`` cut into the parts of a draw, views."""
        return list(values.split(self.memory.places.drawn.counts))

    def in_places(self, image: Tensor) -> Tensor:
        """``[B, n, H, W]`` in the order of places, ``[places, B, n]``."""
        return image.flatten(2).permute(2, 0, 1).index_select(0, self.memory.indices.pixels.to(image.device))

    def to_draw(self) -> Action | None:
        """Runs up to the next draw and returns it; None at the end."""
        for action in self._actions:
            if action.is_draw:
                return action
            self._stages[action.number](action.part)
        return None

    def params(self, at: Action) -> Tensor:
        """The parameters ``[N, B, P of the draw]`` that a draw draws from, a view."""
        return self._params[at.number][at.part]

    def pixels(self, at: Action) -> Tensor:
        """The pixels ``[N, B, C of the draw]`` that a draw draws, a view."""
        return self._pixels[at.number][at.part]

    def results(self) -> tuple[Tensor, Tensor]:
        """Images ``[B, C, H, W]`` and parameters ``[B, P, H, W]``."""
        plan, caches = self.plan, self.memory.caches
        images, *params = (self._as_image(caches[buffer]) for buffer in (0, *(d.buffer for d in plan.all_draws)))
        if len(params) == 1:
            return images, params[0]
        together = images.new_empty(self.batch, plan.emit.params(plan.image_channels), *self.size)
        for channel, own in enumerate(params):
            together[:, plan.emit.params_of(channel, plan.image_channels)] = own
        return images, together

    def _as_image(self, cache: Tensor) -> Tensor:
        pixels = self._by_place(cache).index_select(0, self.memory.indices.of_pixel)
        return pixels.permute(1, 2, 0).unflatten(2, self.size).contiguous()


class _Given(NamedTuple):
    """What a draw is given, by parts."""

    noise: list[Tensor]
    known: list[Known] | None


def _given(chunk: Chunk, noise: Tensor, known_mask: Tensor | None, known: Tensor | None) -> list[_Given]:
    """The parts of each draw: one channel, or all at once."""
    wide = chunk.in_places(noise.to(device_of_float64(noise.device)).double())
    given = []
    for channels in chunk.channels:
        whole = len(chunk.channels) == 1
        mask_and_values = None
        if known_mask is not None and known is not None:
            parts = (chunk.by_part(chunk.in_places(t)[:, :, channels]) for t in (known_mask, known))
            mask_and_values = [Known(*part) for part in zip(*parts, strict=True)]
        given.append(_Given(chunk.by_part(wide if whole else wide[:, :, channels].contiguous()), mask_and_values))
    return given


@torch.no_grad()
def pixelcnn_sample(
    noise: Tensor,
    packed: Sequence[Tensor],
    plan: Plan,
    context: Tensor | None,
    known_mask: Tensor | None,
    known: Tensor | None,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    batch, _, height, width = noise.shape
    parts = []
    for rows in chunks_of(plan, (height, width), batch, noise):
        own, mask, values = (None if t is None else t[rows] for t in (context, known_mask, known))
        chunk = Chunk(packed, plan, own, rows.stop - rows.start, (height, width), noise)
        _draw_all(chunk, _given(chunk, noise[rows], mask, values), temperature)
        parts.append(chunk.results())
    images, params = parts[0] if len(parts) == 1 else (torch.cat(results) for results in zip(*parts, strict=True))
    return images, params


def _draw_all(chunk: Chunk, given: list[_Given], temperature: float) -> None:
    """Runs a chunk to its end by the built-in draws."""
    while (at := chunk.to_draw()) is not None:
        own = given[at.number]
        known = None if own.known is None else own.known[at.part]
        chunk.pixels(at).copy_(draw(chunk.params(at), own.noise[at.part], chunk.plan.emit, temperature, known))
