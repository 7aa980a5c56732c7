"""Pixels of images under p(x | z), in the order in which a sampler draws them: wave after wave, all images of a chunk.

The side that pushes has the parameters of all pixels from one pass; the side that pops steps through the waves. Both
are the cached sampler of the backend ``cpu``, whose parameters have the same bits either way on one instruction set.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..models.vlae import VLAE
from ..reference.pixelcnn_step import places_of
from ..sampling import PixelCNNSampler
from .container import FileError
from .levels import decisions, pop
from .portable import PORTABLE, PortableSampler
from .stack import Stack


class Pixels:
    """The coder of a decoder's pixels. isa: instruction set of the sampler or ``portable``; None: the best one here."""

    def __init__(self, model: VLAE, isa: str | None = None) -> None:
        self.model, self.sampler = model, self._sampler_of(model, isa)
        self.isa = PORTABLE if isa == PORTABLE else str(self.sampler.isa)
        self.emit = self.sampler.plan.emit
        height, width = model.decoder.image_size
        self.shape = (model.likelihood.channels, height, width)
        self.places = places_of(self.sampler.plan, (height, width), torch.device("cpu"))
        self._kept_order: Any = None

    @staticmethod
    def _sampler_of(model: VLAE, isa: str | None) -> PixelCNNSampler:
        if isa == PORTABLE:
            return PortableSampler(model.decoder)
        return PixelCNNSampler(model.decoder, backend="cpu", isa=isa)

    def given(self, z: Tensor, labels: Tensor | None = None) -> Tensor | None:
        """What the sampler is given of codes ``[B, D]`` and labels ``[B]``; None where there is neither."""
        found = self.model.condition(z, labels)
        return found if found.shape[1] else None

    def push(self, stack: Stack, images: Tensor, given: Tensor | None) -> None:
        """The pixels of images ``[B, C, H, W]``, under p(x | given)."""
        params = self.sampler.params_of(images, given)
        if not params.isfinite().all():
            raise ValueError("codec: the model must give finite parameters, got nan or inf")
        levels = levels_of(images, self.emit.levels)
        draws: dict[int, tuple[Any, Any]] = {}
        for place in self.places[: len(self.sampler.plan.all_draws)]:  # the draws of the first pixel
            own, of = pixels_last(params[:, place.params]), pixels_last(levels[:, place.channels])
            draws[place.draw] = decisions(self.emit, own, of.astype(np.int32))
        if self._kept_order is None:
            self._kept_order = self._order({draw: len(bits) for draw, (bits, _) in draws.items()})
        order = self._kept_order
        bits, p = (
            np.concatenate([draw[i].reshape(-1, len(images)) for draw in draws.values()])[order] for i in range(2)
        )
        stack.push_bits(bits.reshape(-1), p.reshape(-1))

    def pop(self, stack: Stack, n: int, given: Tensor | None) -> Tensor:
        """The images ``[n, C, H, W]`` whose pixels were pushed; FileError where that cannot be."""
        with self.sampler.start(given, None if given is not None else n) as run:
            for step in run:
                levels = self._pop(stack, step.params, n, step.channel)
                step.put(levels)
            return run.images

    def _pop(self, stack: Stack, params: Tensor, n: int, channel: int | None) -> Tensor:
        """The values ``[n, C, pixels]`` of a step."""
        channels = self.shape[0] if channel is None else 1
        found = pop(stack, self.emit, pixels_last(params), channels)
        if self.emit.kind != "bernoulli" and found.max(initial=0) >= self.emit.levels:
            raise FileError(f"levels must be below {self.emit.levels}, got {found.max()}")
        levels = torch.from_numpy(found.reshape(channels, -1, n)).permute(2, 0, 1)
        return levels.to(params.dtype) / (self.emit.levels - 1)

    def _order(self, decisions_of: dict[int, int]) -> Any:
        """Where, among the decisions of all draws ``[draw decision pixel]``, those are that come in turn.

        decisions_of: how many decisions of a pixel each draw has.
        """
        pixels = self.shape[1] * self.shape[2]
        starts = dict(zip(decisions_of, np.cumsum([0, *decisions_of.values()]) * pixels, strict=False))
        found = []
        for place in self.places:
            of_decisions = starts[place.draw] + pixels * np.arange(decisions_of[place.draw])
            found.append((of_decisions[:, None] + (place.rows * self.shape[2] + place.columns).numpy()).reshape(-1))
        return np.concatenate(found)


def pixels_last(of_images: Tensor) -> Any:
    """``[B, P, ...]`` -> ``[P, pixels B]`` in numpy, the images of a pixel side by side."""
    return of_images.flatten(2).permute(1, 2, 0).contiguous().flatten(1).numpy()


def levels_of(images: Tensor, levels: int) -> Tensor:
    """The level k of each pixel ``k / (levels - 1)``, int32."""
    return (images * (levels - 1)).round().to(torch.int32)
