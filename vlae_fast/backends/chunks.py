"""Long calls of the CPU's sampler cut into chunks of the batch, so that Python hears Ctrl-C between them.

A sample has the same bits in any batch. A chunk gives every thread whole tiles, as run.cpp would cut the batch anyway.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from .. import activations
from ..plan import Plan

_CHUNK_WORK = 1.5e10  # multiply-adds of a thread: 0.15 s under AVX-512, 0.3 s under AVX2
_TILE_ROWS, _TILE_BYTES = 16, 64 << 20  # as in run.cpp


@lru_cache(maxsize=64)
def tiles_of_thread(plan: Plan, size: tuple[int, int], per_pixel: bool) -> tuple[int, int]:
    """The samples of a tile, and the tiles of a chunk for each thread; ``per_pixel``: the context is a map."""
    height, width = size
    pixels, channels = height * width, [plan.image_channels, *(stage.out_channels for stage in plan.stages)]
    waves = min(width + plan.slope * (height - 1), pixels)
    fit = _TILE_BYTES // (4 * pixels * sum(channels))
    tile = max(1, min(-(-_TILE_ROWS * waves // pixels), fit))
    work = 0
    for stage in plan.stages:
        columns = stage.out_channels * activations.columns(stage.activation)
        depth = sum(channels[source.buffer] * len(source.taps) for source in stage.sources)
        work += columns * (pixels * depth + stage.context_dim * (pixels if per_pixel else 1))
    return tile, max(1, int(_CHUNK_WORK / (work * tile)))


def chunks_of(noise: Tensor, plan: Plan, context: Tensor | None) -> list[slice]:
    """The batch in chunks of nearly one size, all but the last of whole tiles for every thread."""
    batch, size = noise.shape[0], (noise.shape[2], noise.shape[3])
    tile, tiles = tiles_of_thread(plan, size, context is not None and context.dim() == 4)
    unit = torch.get_num_threads() * tile
    units = -(-batch // unit)
    n = max(1, -(-units // tiles))
    return [slice(units * i // n * unit, min(batch, units * (i + 1) // n * unit)) for i in range(n)]
