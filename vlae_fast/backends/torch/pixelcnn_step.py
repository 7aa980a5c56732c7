"""Steps of the sampler: its chunks, stopped before each draw."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...reference.pixelcnn_step import Place, RunState, write_params
from ..float64 import device_of_float64
from .pixelcnn_draw import draw
from .pixelcnn_places import Action
from .pixelcnn_sample import Chunk, chunks_of


class _OwnOfRun(NamedTuple):
    """The chunks of a batch, each with its rows and the draw that it stands before."""

    rows: list[slice]
    chunks: list[Chunk]
    at: list[Action | None]


@torch.no_grad()
def pixelcnn_start(state: RunState, memory: list[Tensor]) -> _OwnOfRun:
    batch, _, height, width = state.images.shape
    context, size = state.context, (height, width)
    rows = chunks_of(state.plan, size, batch, state.images)
    own = [None if context is None else context[part] for part in rows]
    chunks = [
        Chunk(state.packed, state.plan, given, part.stop - part.start, size, state.images)
        for part, given in zip(rows, own, strict=True)
    ]
    return _OwnOfRun(rows, chunks, [None] * len(rows))


@torch.no_grad()
def pixelcnn_step(state: RunState, place: Place | None, values: Tensor | None, following: Place | None) -> Tensor:
    own: _OwnOfRun = state.own
    if place is not None and values is not None:
        state.images[:, place.channels, place.rows, place.columns] = values
        for rows, chunk, at in zip(*own, strict=True):
            assert at is not None
            chunk.pixels(at).copy_(values[rows].permute(2, 0, 1))
    if following is None:
        return state.logits.new_empty(len(state.logits), 0, 0)
    own.at[:] = [chunk.to_draw() for chunk in own.chunks]
    parts = [chunk.params(at) for chunk, at in zip(own.chunks, own.at, strict=True) if at is not None]
    params = torch.cat(parts, 1).permute(1, 2, 0).contiguous()
    write_params(state, following, params)
    return params


@torch.no_grad()
def pixelcnn_step_draw(state: RunState, place: Place, params: Tensor, noise: Tensor, temperature: float) -> Tensor:
    noise = place.of(noise, place.noises) if noise.dim() == 4 else noise
    wide = noise.to(device_of_float64(noise.device)).double()
    own: _OwnOfRun = state.own
    drawn = []
    for rows in own.rows:  # functions of one shape and layout round alike
        p, u = (t[rows].permute(2, 0, 1).contiguous() for t in (params, wide))
        drawn.append(draw(p, u, state.plan.emit, temperature, None))
    return torch.cat(drawn, 1).permute(1, 2, 0).to(params).contiguous()
