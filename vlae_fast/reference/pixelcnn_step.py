"""Specification of `vlae_fast.ops.pixelcnn_step`: a run of a program, stopped before each draw."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..plan import Plan
from .pixelcnn_draw import draw
from .pixelcnn_sample import run_plan


class Place(NamedTuple):
    """The place of one draw: the pixels of a wave, all their channels or one."""

    step: int
    draw: int  # its number in the step
    top: int
    rows: Tensor  # [pixels], from top on
    columns: Tensor  # [pixels], step - slope * rows
    channels: slice
    params: list[int]  # which of all parameters of a pixel it draws from
    noises: list[int]  # likewise of the planes of noise

    @property
    def n_pixels(self) -> int:
        return self.rows.shape[0]

    @property
    def n_channels(self) -> int:
        channels: int = self.channels.stop - self.channels.start
        return channels

    def of(self, image: Tensor, channels: slice | list[int]) -> Tensor:
        """``[B, n, pixels]`` of an image ``[B, ..., H, W]``."""
        return image[:, channels][:, :, self.rows, self.columns]


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # what is kept serves calls in any mode
def places_of(plan: Plan, size: tuple[int, int], device: torch.device) -> tuple[Place, ...]:
    """All draws of an image in their order; waves without a pixel have none."""
    height, width = size
    channels, places = plan.image_channels, []
    for step in range(width + plan.slope * (height - 1)):
        rows = [i for i in range(height) if 0 <= step - plan.slope * i < width]
        at = torch.tensor(rows, dtype=torch.int64, device=device)
        for number in range(len(plan.all_draws) if rows else 0):
            own: tuple[Any, ...] = (
                slice(0, channels),
                range(plan.emit.params(channels)),
                range(plan.emit.noises(channels)),
            )
            if len(plan.all_draws) > 1:
                own = slice(number, number + 1), plan.emit.params_of(number, channels), [number]
            places.append(Place(step, number, rows[0], at, step - plan.slope * at, own[0], list(own[1]), list(own[2])))
    return tuple(places)


class RunState(NamedTuple):
    """A run: what it has so far, and what it computes by."""

    images: Tensor  # [B, C, H, W]
    logits: Tensor  # [B, P, H, W]
    packed: Sequence[Tensor]
    plan: Plan
    context: Tensor | None
    own: Any = None  # a backend's own


def pixelcnn_start(state: RunState, memory: list[Tensor]) -> Any:
    """The state that a backend keeps between steps, in `memory` that an earlier run left: here nothing."""
    return None


def pixelcnn_step(state: RunState, place: Place | None, values: Tensor | None, following: Place | None) -> Tensor:
    """Puts the values ``[B, C of the draw, pixels]`` of a place, and returns the parameters of the one that follows."""
    if place is not None and values is not None:
        state.images[:, place.channels, place.rows, place.columns] = values
    if following is None:
        return state.logits.new_empty(len(state.logits), 0, 0)
    params = following.of(run_plan(state.plan, state.packed, state.context, state.images), following.params)
    write_params(state, following, params)
    return params


def write_params(state: RunState, place: Place, params: Tensor) -> None:
    """Notes the parameters of a place in the logits."""
    at = torch.tensor(place.params, device=params.device)
    state.logits[:, at[:, None], place.rows, place.columns] = params


def pixelcnn_step_draw(state: RunState, place: Place, params: Tensor, noise: Tensor, temperature: float) -> Tensor:
    """The values of `draw` at a place from parameters, by noise ``[B, n of the draw, pixels]`` or ``[B, n, H, W]``."""
    noise = place.of(noise, place.noises) if noise.dim() == 4 else noise
    return draw(params, noise, state.plan.emit, temperature)
