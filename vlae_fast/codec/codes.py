"""The mean code: z = mu on a grid of its own in every dimension, under a distribution fitted to the images of the file.

The step of a dimension is a share of the posterior's standard deviation. A file has of each dimension the step, a byte;
a varint n of levels; and where n > 0 the lowest level (a varint of its zigzag) and n varints, the weights of the levels
from there on. Where n = 0 the levels are those of a standard normal distribution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..models.mode import evaluating
from ..models.vlae import VLAE
from .container import Reader, varint
from .labels import Batch
from .numbers import Floats, exp
from .stack import Stack, weights_of

SHARE = 4.5  # of the standard deviation, which is the step; how it was chosen: `docs/codec.md`
_MOST_LEVEL = 1 << 14
_MOST_TABLE = 1 << 15  # levels of a dimension
_NORMAL_REACH = 8.0  # standard deviations of the levels of a normal distribution
_NORMAL_WEIGHT = 1 << 20

Levels = NDArray[np.int32]


class Table(NamedTuple):
    """The distribution of a dimension: step ``2^exponent (1 + eighths / 8)``, weights of the levels from `lowest`."""

    step: int  # as a byte: 8 (exponent + 16) + eighths
    lowest: int
    weights: Floats
    is_normal: bool = False

    @property
    def width(self) -> float:
        return width_of(self.step)


def width_of(step: int) -> float:
    """The number that a byte stands for; levels times it are exact in float32."""
    return math.ldexp(1 + step % 8 / 8, step // 8 - 16)


def step_of(width: float) -> int:
    """The byte of the greatest step that is not above a width, or of the least there is."""
    return max((step for step in range(256) if width_of(step) <= width), default=0)


class Posterior(NamedTuple):
    """The middle of q(z | x) and its standard deviation, ``[B, D]`` each."""

    mu: Tensor
    scale: Tensor


@torch.no_grad()
def posterior_of(model: VLAE, x: Tensor, labels: Tensor | None = None, batch: int = 256) -> Posterior:
    """Mean and standard deviation of a Gaussian posterior; the draw of eps = 0 and its scale of an ``iaf`` one."""
    found: list[tuple[Tensor, Tensor]] = []
    with evaluating(model):
        for images, of in Batch(x, labels).split(batch):
            if model.posterior is None or model.encoder is None:
                mu, logvar = model.encode(images, of)
            else:
                mu, logvar, context = model.encoder.with_context(images, of)
                mu, _, logvar = model.posterior(mu, logvar, context, torch.zeros_like(mu))
            found.append((mu, torch.exp(0.5 * logvar)))
    if not found:
        return Posterior(x.new_zeros((0, model.latent_dim)), x.new_zeros((0, model.latent_dim)))
    return Posterior(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def levels_on_grid(of: Posterior, share: float) -> tuple[Levels, list[int]]:
    """Levels ``[B, D]`` and the step of each dimension, `share` of the root of the mean of its variances."""
    scale = of.scale.double().square().mean(0).sqrt() if len(of.scale) else of.scale.new_ones(of.scale.shape[1])
    steps = [step_of(share * s) for s in scale.tolist()]
    widths = torch.tensor([width_of(step) for step in steps], dtype=torch.float64)
    levels = (of.mu.double() / widths).round().clamp(-_MOST_LEVEL, _MOST_LEVEL)
    return levels.numpy().astype(np.int32), steps


def fit(levels: Levels, steps: Sequence[int]) -> list[Table]:
    """A distribution for each dimension of all levels ``[B, D]`` of a file: the cheaper of two, with its own bytes."""
    return [_fit_one(levels[:, d], step) for d, step in enumerate(steps)]


def _fit_one(levels: Levels, step: int) -> Table:
    normal = _normal(step)
    if not len(levels):
        return normal
    lowest = int(levels.min())
    counts = np.bincount(levels - lowest).astype(np.float64)
    if len(counts) > _MOST_TABLE:  # none of a model that was trained
        raise ValueError(
            f"codec: the code must have at most {_MOST_TABLE:,} levels in a dimension, got {len(counts):,}"
        )
    weights = weights_of(counts)
    own = Table(step, lowest, weights)
    in_reach = lowest >= normal.lowest and lowest + len(counts) <= normal.lowest + len(normal.weights)
    return normal if in_reach and _bits(levels, normal) < _bits(levels, own) + 8 * len(_written(own)) else own


def _bits(levels: Levels, table: Table) -> float:
    weights = np.maximum(table.weights, 1e-9)
    return float(-np.log2(weights[levels - table.lowest] / weights.sum()).sum())


def _normal(step: int) -> Table:
    width = width_of(step)
    most = min(int(_NORMAL_REACH / width) + 1, _MOST_TABLE // 2 - 1)
    at = np.arange(-most, most + 1) * width
    return Table(step, -most, np.rint(exp(-0.5 * (at * at)) * _NORMAL_WEIGHT) + 1, True)


def write(tables: Sequence[Table]) -> bytes:
    """What a file has of the distributions."""
    return b"".join(bytes([table.step]) + _written(table) for table in tables)


def _written(table: Table) -> bytes:
    if table.is_normal:
        return varint(0)
    zigzag = 2 * table.lowest if table.lowest >= 0 else -2 * table.lowest - 1
    return varint(len(table.weights)) + varint(zigzag) + b"".join(varint(int(w)) for w in table.weights)


def read(settings: bytes, dims: int, where: str) -> list[Table]:
    """The distributions of D dimensions, of the bytes that a file has of them."""
    reader, tables = Reader(settings, f"{where}: the code's settings"), []
    for _ in range(dims):
        step, n = reader.byte("a step"), reader.varint("levels", 0, _MOST_TABLE)
        if not n:
            tables.append(_normal(step))
            continue
        zigzag = reader.varint("the lowest level", 0, 4 * _MOST_LEVEL)
        if n > reader.left:
            raise reader.fail(f"{n:,} weights take at least {n:,} bytes, got {reader.left:,}")
        weights = np.array([reader.varint("a weight", 0, 1 << 24) for _ in range(n)], np.float64)
        if not weights.any():
            raise reader.fail("a weight at least must be above 0")
        tables.append(Table(step, -(zigzag + 1) // 2 if zigzag % 2 else zigzag // 2, weights))
    if reader.left:
        raise reader.fail(f"must end here, got {reader.left:,} bytes more")
    return tables


def push(stack: Stack, levels: Levels, tables: Sequence[Table]) -> None:
    """Codes ``[B, D]``, so that the first dimension of all images is popped first."""
    for d in reversed(range(len(tables))):
        if len(tables[d].weights) > 1:
            stack.push_of_table(levels[:, d] - np.int32(tables[d].lowest), tables[d].weights)


def pop(stack: Stack, n: int, tables: Sequence[Table]) -> Levels:
    """The levels ``[n, D]`` of n codes."""
    columns = [
        (stack.pop_of_table(n, table.weights) if len(table.weights) > 1 else np.zeros(n, np.int32)) + table.lowest
        for table in tables
    ]
    return np.stack(columns, 1).astype(np.int32) if columns else np.zeros((n, 0), np.int32)


def z_of(levels: Levels, tables: Sequence[Table]) -> Tensor:
    """z ``[B, D]`` of levels: exact in float32."""
    widths = np.array([table.width for table in tables], np.float32)
    return torch.from_numpy(levels.astype(np.float32) * widths)
