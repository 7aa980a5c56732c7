"""Values of a finer grid than the buffers they are made of: transposed convolutions, upsampling, shuffled channels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import lcm

import torch
from torch import Tensor

from ...masks import Offset
from .affine import Affine, Read, Region, total
from .axes import Axes, letter_of


@dataclass(frozen=True, eq=False)
class Phases:
    """A value whose pixel ``steps p + place`` is pixel p of ``parts[place]``, each one affine.

    It is written to a buffer when an operation reads it, and not before: what is cropped may be larger than an image.
    size: (h, w) of the whole.
    """

    parts: Mapping[Offset, Affine]
    steps: Offset
    size: tuple[int, int]
    axes: Axes = ()

    @property
    def stride(self) -> tuple[int, int]:
        """Pixels of the image from one of its own to the next; 0 where its grid is finer than the image's."""
        rows, columns = self.parts[0, 0].stride
        at = (rows // self.steps[0], columns // self.steps[1])
        return at if (at[0] * self.steps[0], at[1] * self.steps[1]) == (rows, columns) else (0, 0)

    @property
    def channels(self) -> int:
        return self.parts[0, 0].channels

    @property
    def reads(self) -> list[Read]:
        return [read for part in self.parts.values() for read in part.terms]

    def letter(self, dim: int) -> str:
        """`letter_of` a dimension."""
        return letter_of(self.axes, dim)

    def rows(self, index: Tensor, axes: Axes) -> Phases:
        return replace(self, parts={place: part.rows(index) for place, part in self.parts.items()}, axes=axes)

    def moved(self, dy: int, dx: int, size: tuple[int, int], axes: Axes) -> Phases:
        """``out[p] = value[p + (dy, dx)]``, of another size: a crop."""
        parts = {}
        for a, b in _places(self.steps):
            (rows, row), (columns, column) = divmod(a + dy, self.steps[0]), divmod(b + dx, self.steps[1])
            part = self.parts[row, column]
            parts[a, b] = part.moved(rows, columns, part.size)
        return Phases(parts, self.steps, size, axes)

    def evened(self) -> Phases:
        """The same in parts of one stride down and to the right, as stages have."""
        rows, columns = self.parts[0, 0].stride
        by = (lcm(rows, columns) // rows, lcm(rows, columns) // columns)
        if by == (1, 1):
            return self
        parts = {
            (a + self.steps[0] * i, b + self.steps[1] * j): part.moved(i, j, part.size).strided(by)
            for (a, b), part in self.parts.items()
            for i, j in _places(by)
        }
        return replace(self, parts=parts, steps=(self.steps[0] * by[0], self.steps[1] * by[1]))

    def region(self, place: Offset, within: Sequence[int]) -> Region:
        """The pixels of a part that are in the first rows and columns of the whole."""
        ends = [max(0, -(-(n - at) // step)) for n, at, step in zip(within, place, self.steps, strict=True)]
        return (0, 0, ends[0], ends[1])


def as_phases(value: Affine) -> Phases:
    return Phases({(0, 0): value}, (1, 1), value.size).evened()


def _places(steps: Offset) -> Iterator[Offset]:
    return product(range(steps[0]), range(steps[1]))


def upsampled(value: Affine, steps: Offset, axes: Axes) -> Phases:
    """Every pixel ``steps`` times, down and to the right: the nearest one."""
    size = (value.size[0] * steps[0], value.size[1] * steps[1])
    return Phases(dict.fromkeys(_places(steps), value), steps, size, axes)


@dataclass(frozen=True)
class Transposed:
    """``out[stride i - padding + dilation k] = sum of weight[:, :, k] x[i]``; each is (rows, columns).

    extra: rows and columns more at the end.
    """

    kernel: Sequence[int]
    stride: Offset
    padding: Sequence[int]
    dilation: Sequence[int]
    extra: Sequence[int]

    def size(self, given: Sequence[int]) -> tuple[int, int]:
        """(h, w) of the output for an input of a size."""
        rows, columns = (
            (n - 1) * s - 2 * p + d * (k - 1) + e + 1
            for n, s, p, d, k, e in zip(
                given, self.stride, self.padding, self.dilation, self.kernel, self.extra, strict=True
            )
        )
        return rows, columns

    def places(self, axis: int, phase: int) -> list[tuple[int, int]]:
        """(k, offset): ``out[stride p + phase]`` reads ``x[p + offset]`` through place k of the kernel."""
        start = phase + self.padding[axis]
        at = [(k, start - k * self.dilation[axis]) for k in range(self.kernel[axis])]
        return [(k, n // self.stride[axis]) for k, n in at if n % self.stride[axis] == 0]

    def margins(self, given: Sequence[int]) -> tuple[int, ...]:
        """Zeros that are read beside an input of a size: left, right, top, bottom."""
        margins: list[int] = []
        for axis in (1, 0):
            length, step = self.size(given)[axis], self.stride[axis]
            reads = [(a, offset) for a in range(step) for _, offset in self.places(axis, a)]
            after = [(length - a - 1) // step + offset - (given[axis] - 1) for a, offset in reads]
            margins += [max(0, *(-offset for _, offset in reads)), max(0, *after)]
        return tuple(margins)

    def of(self, value: Affine, weight: Tensor, bias: Tensor | None) -> Phases:
        """The output; weight ``[P, P', kh, kw]``. The value must be zero where it is read outside of its size."""
        channels = weight.shape[1]
        own = value.bias.new_zeros(channels) if bias is None else bias
        parts = {}
        for a, b in _places(self.stride):
            part = Affine({}, own, value.size, None, value.stride)
            for (i, dy), (j, dx) in product(self.places(0, a), self.places(1, b)):
                part = total(part, value.through(weight[:, :, i, j].T).moved(dy, dx, value.size))
            parts[a, b] = part.without_zeros()
        return Phases(parts, self.stride, self.size(value.size))


def shuffled(value: Affine, step: int, axes: Axes) -> Phases:
    """``out[c, step p + (a, b)] = value[c step^2 + a step + b, p]``."""
    index = torch.arange(value.channels, device="cpu").view(-1, step, step)
    parts = {(a, b): value.rows(index[:, a, b]) for a, b in _places((step, step))}
    return Phases(parts, (step, step), (value.size[0] * step, value.size[1] * step), axes)
