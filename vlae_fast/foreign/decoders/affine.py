"""Values that a traced decoder computes between its activations: affine in the buffers of a program and in its maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...masks import Offset
from .axes import Axes, AxesError, common, letter_of, shape_of

Read = tuple[int, Offset | None]  # a buffer, or -1 - n for map n, and where in it; None: the same all over the image
Region = tuple[int, int, int, int]  # first row, first column, end of the rows, end of the columns


@dataclass(frozen=True, eq=False)
class Affine:
    """``value[p] = bias + sum over reads (b, tap) of terms[b, tap] buffer_b[stride p + tap]`` for p in the size.

    terms: ``[P, C]`` each. bias: ``[P]``. size: (h, w), 1 along what is the same all over the image. Buffers are zero
    outside of the image, maps outside of their own size; a value need not have the image's. valid: where the formula
    holds, None: everywhere. stride: pixels of the image from one of the value's to the next, down and to the right.
    """

    terms: dict[Read, Tensor]
    bias: Tensor
    size: tuple[int, int]
    valid: Region | None = None
    stride: Offset = (1, 1)

    @property
    def channels(self) -> int:
        return len(self.bias)

    @property
    def buffers(self) -> list[tuple[int, Offset]]:
        """The reads of buffers, which depend on x."""
        return [(b, tap) for b, tap in self.terms if b >= 0 and tap is not None]

    @property
    def buffer(self) -> int:
        """Index of the buffer that the value equals, else -1."""
        if len(self.terms) != 1 or self.bias.any():
            return -1
        ((buffer, tap), weight), *_ = self.terms.items()
        return buffer if buffer >= 0 and tap == (0, 0) and is_identity(weight) else -1

    def holds_within(self, region: Region) -> bool:
        if self.valid is None:
            return True
        return all(v <= r for v, r in zip(self.valid[:2], region[:2], strict=True)) and all(
            v >= r for v, r in zip(self.valid[2:], region[2:], strict=True)
        )

    def open_sides(self, size_of: Callable[[int], tuple[int, int]], margins: Sequence[int]) -> list[bool]:
        """The sides (left, right, top, bottom) with margins where the formula does not give zeros."""
        taps = [(size_of(b), tap) for b, tap in self.terms if tap is not None]
        constant = bool(self.bias.any()) or len(taps) < len(self.terms)
        far = self.size[0] + self.size[1]
        top, left, bottom, right = self.valid or (-far, -far, 2 * far, 2 * far)
        sides = []
        for axis, first, end in ((1, left, right), (0, top, bottom)):
            step, length = self.stride[axis], self.size[axis]
            before = any(tap[axis] >= step for _, tap in taps) or first > 0
            after = any(step * length + tap[axis] < size[axis] for size, tap in taps) or end < length
            sides += [constant or before, constant or after]
        return [margin > 0 and is_open for margin, is_open in zip(margins, sides, strict=True)]

    def zero_outside(self, size_of: Callable[[int], tuple[int, int]], margins: Sequence[int]) -> bool:
        """True where the formula gives the zeros of padding, on the sides (left, right, top, bottom) that have some."""
        return not any(self.open_sides(size_of, margins))

    def bordered_by_zeros(self, margins: Sequence[int], open_sides: Sequence[bool]) -> Affine:
        """The same with zeros on the sides (left, right, top, bottom) with margins, not known on the open ones."""
        if self.valid is None and not any(open_sides):
            return self
        far = 4 * (self.size[0] + self.size[1])
        top, left, bottom, right = self.valid or (-far, -far, far, far)
        (on_left, on_right, on_top, on_bottom), sides = (n > 0 for n in margins), open_sides
        left = max(left, 0) if sides[0] else -far if on_left else left
        right = min(right, self.size[1]) if sides[1] else far if on_right else right
        top = max(top, 0) if sides[2] else -far if on_top else top
        bottom = min(bottom, self.size[0]) if sides[3] else far if on_bottom else bottom
        return replace(self, valid=(top, left, bottom, right))

    def through(self, matrix: Tensor, bias: Tensor | None = None) -> Affine:
        """``matrix value + bias`` pixel by pixel, matrix ``[P', P]``."""
        terms = {read: matrix @ w for read, w in self.terms.items()}
        own = matrix @ self.bias
        return replace(self, terms=terms, bias=own if bias is None else own + bias)

    def scaled(self, by: Tensor) -> Affine:
        return replace(self, terms={read: by[:, None] * w for read, w in self.terms.items()}, bias=by * self.bias)

    def rows(self, index: Tensor) -> Affine:
        """The channels of these indices."""
        index = index.to(self.bias.device)
        return replace(self, terms={read: w[index] for read, w in self.terms.items()}, bias=self.bias[index])

    def moved(self, dy: int, dx: int, size: tuple[int, int]) -> Affine:
        """``out[p] = value[p + (dy, dx)]``, of another size: crops and pads."""
        by = (self.stride[0] * dy, self.stride[1] * dx)
        terms = {(b, _moved(tap, *by)): w for (b, tap), w in self.terms.items()}
        valid = None if self.valid is None else (*_less(self.valid[:2], dy, dx), *_less(self.valid[2:], dy, dx))
        return Affine(terms, self.bias, size, valid, self.stride)

    def strided(self, steps: Sequence[int]) -> Affine:
        """``out[p] = value[steps p]``: every so many rows and columns."""
        rows, columns = steps
        size = (-(-self.size[0] // rows), -(-self.size[1] // columns))
        valid: Region | None = None
        if self.valid is not None:
            top, left, bottom, right = self.valid
            valid = (-(-top // rows), -(-left // columns), -(-bottom // rows), -(-right // columns))
        return replace(self, size=size, valid=valid, stride=(self.stride[0] * rows, self.stride[1] * columns))

    def on_pixels(self, first: Offset) -> Affine:
        """The formula at pixels of the image, for those where ``stride p + first`` is one."""
        terms = {(b, _moved(tap, -first[0], -first[1])): w for (b, tap), w in self.terms.items()}
        return Affine(terms, self.bias, self.size)

    def without_zeros(self) -> Affine:
        """The same without reads that count for nothing."""
        return replace(self, terms={read: w for read, w in self.terms.items() if w.any()})

    def parted(self) -> tuple[Affine, Affine]:
        """The part that depends on x, and the rest."""
        of_x = {read: w for read, w in self.terms.items() if read[0] >= 0}
        rest = {read: w for read, w in self.terms.items() if read[0] < 0}
        return replace(self, terms=of_x, bias=torch.zeros_like(self.bias)), replace(self, terms=rest)


def _moved(tap: Offset | None, dy: int, dx: int) -> Offset | None:
    return None if tap is None else (tap[0] + dy, tap[1] + dx)


def _less(at: Sequence[int], dy: int, dx: int) -> tuple[int, int]:
    return at[0] - dy, at[1] - dx


def is_identity(weight: Tensor) -> bool:
    return weight.shape[0] == weight.shape[1] and weight.equal(torch.eye(len(weight)).to(weight))


def _valid(parts: Sequence[Affine]) -> Region | None:
    regions = [p.valid for p in parts if p.valid is not None]
    return _common(regions) if regions else None


def _common(regions: Sequence[Region]) -> Region:
    top, left, bottom, right = zip(*regions, strict=True)
    return max(top), max(left), min(bottom), min(right)


def _size(parts: Sequence[Affine]) -> tuple[int, int]:
    return max(p.size[0] for p in parts), max(p.size[1] for p in parts)


def _stride(parts: Sequence[Affine]) -> Offset:
    """The one of the values which differ from pixel to pixel."""
    strides = {p.stride for p in parts if any(tap is not None for _, tap in p.terms)}
    if len(strides) > 1:
        raise AxesError(f"images of two resolutions, every {' and every '.join(map(str, sorted(strides)))} pixels")
    return strides.pop() if strides else max(p.stride for p in parts)


def total(a: Affine, b: Affine) -> Affine:
    """The sum of two values of one size, or of one that is the same all over the image."""
    terms = dict(a.terms)
    for read, w in b.terms.items():
        terms[read] = terms[read] + w if read in terms else w
    return Affine(terms, a.bias + b.bias, _size((a, b)), _valid((a, b)), _stride((a, b)))


def stacked(parts: Sequence[Affine]) -> Affine:
    """The values after each other, as channels."""
    reads = {read: w for part in parts for read, w in part.terms.items()}
    terms = {
        read: torch.cat([p.terms.get(read, w.new_zeros(p.channels, w.shape[1])) for p in parts])
        for read, w in reads.items()
    }
    return Affine(terms, torch.cat([p.bias for p in parts]), _size(parts), _valid(parts), _stride(parts))


def convolved(
    value: Affine, weight: Tensor, bias: Tensor | None, padding: Sequence[int], step: Sequence[int]
) -> Affine:
    """A convolution of a value, weight ``[P', P, kh, kw]`` with dilation ``step``; its zeros are not read."""
    terms: dict[Read, Tensor] = {}
    kh, kw = weight.shape[2:]
    live = (weight != 0).any(0).any(0).nonzero().tolist()
    taps = [(i * step[0] - padding[0], j * step[1] - padding[1]) for i, j in live]
    for (i, j), (dy, dx) in zip(live, taps, strict=True):
        for (buffer, tap), w in value.terms.items():
            part = weight[:, :, i, j] @ w
            read = (buffer, _moved(tap, value.stride[0] * dy, value.stride[1] * dx))
            if part.any():  # where every product is 0 the buffer is not read
                terms[read] = terms[read] + part if read in terms else part
    own = weight.sum((2, 3)) @ value.bias
    height, width = (n + 2 * p - s * (k - 1) for n, p, s, k in zip(value.size, padding, step, (kh, kw), strict=True))
    valid = value.valid
    if valid is not None and taps:
        (top, left), (bottom, right) = (tuple(f(at) for at in zip(*taps, strict=True)) for f in (min, max))
        valid = (valid[0] - top, valid[1] - left, valid[2] - bottom, valid[3] - right)
    return Affine(terms, own if bias is None else own + bias, (height, width), valid, value.stride)


class Dependent:
    """The result of an operation on a traced tensor: it depends on the image."""


@dataclass(frozen=True, eq=False)
class Value(Dependent):
    """A traced tensor: what it is at a pixel, and how its dimensions hold channels and pixels."""

    affine: Affine
    axes: Axes

    @property
    def shape(self) -> tuple[int, ...]:
        return shape_of(self.axes)

    def rows(self, index: Tensor, axes: Axes) -> Value:
        return Value(self.affine.rows(index), axes)

    def letter(self, dim: int) -> str:
        """`letter_of` a dimension."""
        return letter_of(self.axes, dim)

    def without_copies(self) -> Value:
        """The same with its copies as channels."""
        if not any(letter == "R" for axis in self.axes for letter, _ in axis):
            return self
        axes = tuple(tuple(("C" if letter == "R" else letter, n) for letter, n in axis) for axis in self.axes)
        _, _, index = common(axes, self.axes)
        return self.rows(index, axes)


def aligned(a: Value, b: Value) -> tuple[Affine, Affine, Axes]:
    """Both with the channels of an elementwise result, and its axes."""
    axes, rows_a, rows_b = common(a.axes, b.axes)
    for one, other in ((a.affine, b.affine), (b.affine, a.affine)):
        if any(tap is not None for _, tap in one.terms) and any(
            n > m for n, m in zip(other.size, one.size, strict=True)
        ):
            raise AxesError(f"images of two sizes, {a.affine.size} and {b.affine.size}")
    return a.affine.rows(rows_a), b.affine.rows(rows_b), axes
