"""Operations that move the dimensions of a tensor or take a part of it: views, slices, joins, padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from ...masks import Offset
from .affine import Affine, Value, stacked, total
from .axes import (
    Axes,
    axis_of,
    channels_of,
    common,
    grid,
    is_channels,
    length_of,
    letter_of,
    merged,
    permuted,
    viewed,
)
from .phases import Phases, upsampled
from .writer import Bounded, Later, Writer, name_of

Traced = Value | Bounded | Phases


class Moves(Writer):
    """A method for each operation on dimensions."""

    def _op_view(self, x: Traced, *args: Any, **kwargs: Any) -> Traced:
        axes = viewed(x.axes, self.node.meta["val"].shape)
        times = {axis[0][0]: axis[1][1] for axis in axes if "".join(letter for letter, _ in axis) in ("HR", "WR")}
        x = x.rows(torch.arange(_count(x)), axes)
        return self._repeated(x, times) if times else x

    def _repeated(self, x: Traced, times: dict[str, int]) -> Phases:
        """x whose rows and columns are followed by copies of them, which is nearest upsampling."""
        x = self._open(x) if isinstance(x, Bounded) else self._write_phases(x) if isinstance(x, Phases) else x
        whole = (axis_of(axis[0][0], length_of(axis)) if axis and axis[0][0] in times else axis for axis in x.axes)
        return upsampled(x.affine, (times.get("H", 1), times.get("W", 1)), tuple(whole))

    _op__unsafe_view = _op_reshape = _op_unsqueeze = _op_squeeze = _op_flatten = _op_unflatten = _op_view

    def _op_permute(self, x: Traced, order: Sequence[int]) -> Traced:
        axes, index = permuted(x.axes, [d % len(x.axes) for d in order])
        return x.rows(index, axes)

    def _op_transpose(self, x: Traced, a: int, b: int) -> Traced:
        order = list(range(len(x.axes)))
        order[a], order[b] = order[b], order[a]
        return self._op_permute(x, order)

    def _op_t(self, x: Traced) -> Traced:
        return self._op_permute(x, range(len(x.axes))[::-1])

    def _op_expand(self, x: Traced, size: Sequence[int], implicit: bool = False) -> Traced:
        return x.rows(torch.arange(_count(x)), expanded(x.axes, self.node.meta["val"].shape))

    def _op_repeat(self, x: Traced, repeats: Sequence[int]) -> Traced:
        axes = ((),) * (len(repeats) - len(x.axes)) + x.axes
        axes = tuple(merged((*axis_of("R", n), *axis)) for axis, n in zip(axes, repeats, strict=True))
        return x.rows(torch.arange(_count(x)), axes)

    # Parts of channels

    def _part(self, x: Traced, dim: int, take: Callable[[Tensor, int], Tensor], keep: bool = True) -> Traced:
        """The channels that ``take`` leaves of the indices of all, along a dimension of channels or copies."""
        dim %= len(x.axes)
        if any(letter == "R" for letter, _ in x.axes[dim]):
            x = _filled(x)
        if not is_channels(x.axes[dim]):
            got = f"{name_of(self.node)} of dimension {dim}"
            self._fail("operations on channels, and crops of rows and columns", got)
        index = take(grid(x.axes), dim)
        own = axis_of("C", index.shape[dim] if keep else 1)
        axes = (*x.axes[:dim], *((own,) if keep else ()), *x.axes[dim + 1 :])
        return x.rows(index.flatten(), axes)

    def _op_select(self, x: Traced, dim: int, index: int) -> Traced:
        dim %= len(x.axes)
        if x.axes[dim] and {letter for letter, _ in x.axes[dim]} == {"R"}:
            return x.rows(torch.arange(_count(x)), (*x.axes[:dim], *x.axes[dim + 1 :]))
        return self._part(x, dim, lambda rows, d: rows.select(d, index), keep=False)

    def _op_unbind(self, x: Traced, dim: int = 0) -> list[Traced]:
        return [self._op_select(x, dim, i) for i in range(length_of(x.axes[dim]))]

    def _op_index_select(self, x: Traced, dim: int, index: Tensor) -> Traced:
        return self._part(x, dim, lambda rows, d: rows.index_select(d, index.cpu()))

    def _op_index(self, x: Traced, index: Sequence[Tensor | None]) -> Traced:
        given = [(d, i) for d, i in enumerate(index) if i is not None]
        if len(given) != 1 or given[0][1].dim() != 1 or _is_traced(given[0][1]):
            self._fail("indices by one vector of constants", "other ones")
        dim, at = given[0]
        at = at.nonzero().flatten() if at.dtype == torch.bool else at
        return self._part(x, dim, lambda rows, d: rows.index_select(d, at.cpu() % rows.shape[d]))

    def _op_flip(self, x: Traced, dims: Sequence[int]) -> Traced:
        for dim in dims:
            x = self._part(x, dim, lambda rows, d: rows.flip(d))
        return x

    def _op_roll(self, x: Traced, shifts: Sequence[int], dims: Sequence[int] = ()) -> Traced:
        """Of rows and columns: those that come back at the other side are read ahead, unless they are overwritten."""
        if not dims:
            self._fail("rolls over dimensions that are given", "one of all numbers in a row")
        for shift, dim in zip(shifts, dims, strict=True):
            rolled = self._rolled(x, shift, dim % len(x.axes))
            x = self._part(x, dim, _rolling(shift)) if rolled is None else rolled
        return x

    def _rolled(self, x: Traced, shift: int, dim: int) -> Traced | None:
        """Rows or columns in a circle; None of channels."""
        letter = x.letter(dim) if isinstance(x, Value) else letter_of(x.axes, dim)
        if letter not in ("H", "W"):
            return None
        x = self._open(x) if isinstance(x, Bounded) else self._write_phases(x) if isinstance(x, Phases) else x
        x, length = Value(self._settle(x.affine), x.axes), length_of(x.axes[dim])
        at = -shift % length
        return self._op_cat([self._op_slice(x, dim, at, length), self._op_slice(x, dim, 0, at)], dim) if at else x

    def _op_slice(
        self, x: Traced, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
    ) -> Traced:
        dim %= len(x.axes)
        length = length_of(x.axes[dim])
        first, last, _ = slice(start, end).indices(length)
        if (first, last, step) == (0, length, 1):
            return x
        letter = letter_of(x.axes, dim)
        if letter not in ("H", "W"):
            return self._part(x, dim, lambda rows, d: rows[(slice(None),) * d + (slice(first, last, step),)])
        if step != 1:
            return self._every(self._op_slice(x, dim, first, last), dim, letter, step)
        if isinstance(x, Phases):
            size, by, axes = self._crop(x.size, x.axes, dim, letter, first, last)
            return x.moved(*by, size, axes)
        if isinstance(x, Bounded):
            if not x.is_plain:
                return self._cropped(self._open(x), dim, letter, first, last)
            return Bounded(x.function, self._cropped(x.value, dim, letter, first, last), x.gain, x.offset, x.groups)
        return self._cropped(x, dim, letter, first, last)

    def _cropped(self, x: Value, dim: int, letter: str, first: int, last: int) -> Value:
        size, by, axes = self._crop(x.affine.size, x.axes, dim, letter, first, last)
        return Value(x.affine.moved(*by, size), axes)

    @staticmethod
    def _crop(
        whole: Sequence[int], axes: Axes, dim: int, letter: str, first: int, last: int
    ) -> tuple[tuple[int, int], Offset, Axes]:
        """Size, offset and axes of what is left of rows or columns."""
        size = [*whole]
        size["HW".index(letter)] = max(0, last - first)
        axes = (*axes[:dim], axis_of(letter, last - first), *axes[dim + 1 :])
        return (size[0], size[1]), (first, 0) if letter == "H" else (0, first), axes

    def _every(self, x: Traced, dim: int, letter: str, step: int) -> Traced:
        """Every so many rows or columns, from the first on."""
        x = self._write_phases(x) if isinstance(x, Phases) else x
        if isinstance(x, Bounded):
            if not x.is_plain:
                return self._every(self._open(x), dim, letter, step)
            value = self._every(x.value, dim, letter, step)
            assert isinstance(value, Value)
            return replace(x, value=value)
        own = x.affine.strided((step, 1) if letter == "H" else (1, step))
        length = own.size["HW".index(letter)]
        return Value(own, (*x.axes[:dim], axis_of(letter, length), *x.axes[dim + 1 :]))

    def _op_split(self, x: Traced, size: int | Sequence[int], dim: int = 0) -> list[Traced]:
        length = length_of(x.axes[dim])
        sizes = [min(size, length - at) for at in range(0, length, size)] if isinstance(size, int) else size
        ends = torch.tensor(sizes, device="cpu").cumsum(0).tolist()
        return [self._op_slice(x, dim, end - n, end) for n, end in zip(sizes, ends, strict=True)]

    _op_split_with_sizes = _op_split

    def _op_chunk(self, x: Traced, chunks: int, dim: int = 0) -> list[Traced]:
        return self._op_split(x, -(-length_of(x.axes[dim]) // chunks), dim)

    # Joins

    def _op_stack(self, parts: Sequence[Any], dim: int = 0) -> Value:
        rank = max(len(p.axes) for p in parts if isinstance(p, Value)) + 1
        dim %= rank
        added = [
            Value(p.affine, (*p.axes[:dim], (), *p.axes[dim:])) if isinstance(p, Value) else p.unsqueeze(dim)
            for p in parts
        ]
        return self._op_cat(added, dim)

    def _op_cat(self, parts: Sequence[Any], dim: int = 0) -> Value:
        like = next(p for p in parts if isinstance(p, Value))
        dim %= len(like.axes)
        parts = [p for p in parts if not (isinstance(p, Tensor) and p.shape == (0,))]
        if like.letter(dim) in ("H", "W"):
            return self._beside(parts, dim, like)
        values = [p if isinstance(p, Value) else self._lifted_part(p, dim, like) for p in parts]
        values = [v.without_copies() for v in values]
        rest = {(*v.axes[:dim], *v.axes[dim + 1 :]) for v in values}
        if not all(is_channels(v.axes[dim]) for v in values) or len(rest) > 1:
            self._fail("concatenations of channels, rows or columns, of equal size", [list(v.shape) for v in values])
        if len({v.affine.size for v in values if v.affine.buffers}) > 1:
            self._fail("concatenations of images of one size", [v.affine.size for v in values])
        return self._stacked(values, dim)

    def _stacked(self, values: Sequence[Value], dim: int) -> Value:
        """The channels of all in turn, in the order that the joined dimension gives them."""
        count, rows = 0, []
        for value in values:
            rows.append(grid(value.axes) + count)
            count += value.affine.channels
        index = torch.cat(rows, dim)
        first = values[0].axes
        axes = (*first[:dim], axis_of("C", index.shape[dim]), *first[dim + 1 :])
        return Value(stacked([v.affine for v in values]).rows(index.flatten()), axes)

    def _lifted_part(self, part: Any, dim: int, like: Value) -> Value:
        shape = part.meta.shape if isinstance(part, Later) else part.shape
        axes = (*like.axes[:dim], axis_of("C", shape[dim]), *like.axes[dim + 1 :])
        return self._lift(part, axes, like.affine.size, like.affine.stride)

    def _beside(self, parts: Sequence[Any], dim: int, like: Value) -> Value:
        """Rows under rows, or columns beside columns: the sum of all, each padded by zeros."""
        letter = like.letter(dim)
        axis, lengths = "HW".index(letter), []
        for part in parts:
            shape = part.shape if isinstance(part, Value | Tensor) else part.meta.shape
            lengths.append(shape[dim])
        out: Affine | None = None
        for n, part in enumerate(parts):
            size = [*like.affine.size]
            size[axis] = lengths[n]
            axes = (*like.axes[:dim], axis_of(letter, lengths[n]), *like.axes[dim + 1 :])
            value = part if isinstance(part, Value) else self._lift(part, axes, (size[0], size[1]), like.affine.stride)
            if (*value.axes[:dim], *value.axes[dim + 1 :]) != (*like.axes[:dim], *like.axes[dim + 1 :]):
                self._fail("concatenations of images of one size", [list(like.shape), list(value.shape)])
            before, after = sum(lengths[:n]), sum(lengths[n + 1 :])
            if lengths[n]:
                own = self._bordered(value.affine, (before, after, 0, 0) if axis else (0, 0, before, after))
                out = own if out is None else total(out, own)
        axes = (*like.axes[:dim], axis_of(letter, sum(lengths)), *like.axes[dim + 1 :])
        if out is None:
            self._fail("concatenations of something", "nothing")
        return Value(out, axes)

    # Padding

    def _bordered(self, x: Affine, margins: Sequence[int]) -> Affine:
        """x with zeros around it, on the sides (left, right, top, bottom); negative: without so many pixels."""
        left, right, top, bottom = margins
        x = self._padded(x, [max(0, n) for n in margins]) if max(margins) > 0 else x
        return x.moved(-top, -left, (x.size[0] + top + bottom, x.size[1] + left + right))

    def _padded(self, x: Affine, margins: Sequence[int]) -> Affine:
        """x, written to a buffer or a map where its formula would not give the zeros around it."""
        if not x.zero_outside(self.maps.size_of, margins):
            x = self._parted_constants(x)
        grid = self._grid(x.stride)
        within = all(n <= m for n, m in zip(x.size, grid, strict=True))
        if within and not x.zero_outside(self.maps.size_of, margins):
            of_x, rest = x.parted()
            if of_x.buffers and not rest.bias.any() and rest.zero_outside(self.maps.size_of, margins):
                x = total(self._stage(of_x), rest)
            else:
                x = self._stage(x)
        sides = x.open_sides(self.maps.size_of, margins)
        if (
            not within
            and (sides[0] or sides[2])
            and x.holds_within((0, 0, min(x.size[0], grid[0]), min(x.size[1], grid[1])))
        ):
            x = self._stage(x)  # rows above and columns before are zeros of the buffer; what lies behind may be cropped
            sides = x.open_sides(self.maps.size_of, margins)
        if within and any(sides):
            self._fail("padding of whole images", f"padding of one of {x.size}")
        return x.bordered_by_zeros(margins, sides)  # what the image needs may be cropped out of a larger one

    def _parted_constants(self, x: Affine) -> Affine:
        """x with what maps give to it as one map of its own size; where the job says so, with its bias in it."""
        of_x, rest = x.parted()
        if not rest.terms and not (self.job.split and rest.bias.any()):
            return x
        if x.stride != (1, 1):
            self._fail("padding of features without maps beside them, at a stride", f"one of {x.size}")
        index, matrix = self.maps.sum(rest, x.size)
        return total(of_x, Affine({(index, (0, 0)): matrix}, torch.zeros_like(x.bias), x.size, x.valid))

    def _op_constant_pad_nd(self, x: Traced, pad: Sequence[int], value: float = 0.0) -> Traced:
        if max(pad) <= 0:  # crops alone
            for n in range(len(pad) // 2):
                dim = len(x.axes) - 1 - n
                x = self._op_slice(x, dim, -pad[2 * n], length_of(x.axes[dim]) + pad[2 * n + 1])
            return x
        x = self._write_phases(x) if isinstance(x, Phases) else x
        assert isinstance(x, Value)
        for n in range(len(pad) // 2):
            dim, margins = len(x.axes) - 1 - n, (pad[2 * n], pad[2 * n + 1])
            if not any(margins):
                continue
            letter = x.letter(dim)
            if letter in ("H", "W"):
                x = self._with_border(x, dim, letter, margins, value)
            elif letter == "C" and min(margins) >= 0:
                shape = [1] * len(x.axes)
                ends = [torch.full((*shape[:dim], m, *shape[dim + 1 :]), value).to(self.like) for m in margins if m]
                x = self._op_cat([*ends[: margins[0] > 0], x, *ends[margins[0] > 0 :]], dim)
            else:
                self._fail("padding of rows, columns or channels", f"padding of dimension {dim}")
        return x

    def _with_border(self, x: Value, dim: int, letter: str, margins: Sequence[int], value: float) -> Value:
        own = x.affine if value == 0 else self._plus(x.affine, torch.full((1, 1, 1), -float(value)).to(self.like))
        own = self._bordered(own, (0, 0, *margins) if letter == "H" else (*margins, 0, 0))
        if value != 0:
            own = self._plus(own, torch.full((1, 1, 1), float(value)).to(self.like))
        length = own.size["HW".index(letter)]
        return Value(own, (*x.axes[:dim], axis_of(letter, length), *x.axes[dim + 1 :]))


def _rolling(shift: int) -> Callable[[Tensor, int], Tensor]:
    return lambda rows, dim: rows.roll(shift, dim)


def expanded(axes: Axes, shape: Sequence[int]) -> Axes:
    """The axes of a tensor that is repeated along its dimensions of length 1."""
    axes = ((),) * (len(shape) - len(axes)) + axes
    return tuple(axis or axis_of("R", n) for axis, n in zip(axes, shape, strict=True))


def _count(x: Traced) -> int:
    return prod(channels_of(axis) for axis in x.axes)


def _filled(x: Traced) -> Traced:
    if isinstance(x, Value):
        return x.without_copies()
    axes = tuple(tuple(("C" if letter == "R" else letter, n) for letter, n in axis) for axis in x.axes)
    return x.rows(common(axes, x.axes)[2], axes)


def _is_traced(value: Any) -> bool:
    return isinstance(value, Value | Bounded | Phases | Later)
