"""Factors of the dimensions of a traced tensor: of the batch, the channels, the rows and the columns.

A dimension is a product of factors in row-major order, ``(("B", 2), ("H", 5))`` for a batch whose rows were joined to
it; a dimension of length 1 has none. Letters: B batch, C channels, H rows, W columns, R copies of what is the same.
Views, permutations and broadcasts move factors; the channels of a value are in the order of its C factors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

Factor = tuple[str, int]
Axis = tuple[Factor, ...]
Axes = tuple[Axis, ...]
_CUT = "CR"  # letters whose factors can be cut in two: no operation looks at neighbours along them


class AxesError(ValueError):
    """A tensor that is no image of channels; the text says in which way."""


def axis_of(letter: str, length: int) -> Axis:
    return ((letter, length),) if length > 1 else ()


def axes_of(letters: str, shape: Sequence[int]) -> Axes:
    """The axes of a tensor whose dimensions are one factor each."""
    return tuple(axis_of(letter, length) for letter, length in zip(letters, shape, strict=True))


def length_of(axis: Axis) -> int:
    return prod(length for _, length in axis)


def shape_of(axes: Axes) -> tuple[int, ...]:
    return tuple(map(length_of, axes))


def letters_of(axes: Axes) -> str:
    return "".join(letter for axis in axes for letter, _ in axis)


def letter_of(axes: Axes, dim: int) -> str:
    """The one letter of a dimension, by its place where its length is 1; several where it has several."""
    letters = "".join(sorted({letter for letter, _ in axes[dim]}))
    if letters or dim < 1:
        return letters or "C"
    present, last = {letter for axis in axes for letter, _ in axis}, len(axes) - 1
    if dim == last and last > 1 and "W" not in present:
        return "W"
    return "H" if dim == last - 1 and last > 2 and "H" not in present else "C"


def channels_of(axis: Axis) -> int:
    """The product of an axis's C factors."""
    return prod(length for letter, length in axis if letter == "C")


def is_channels(axis: Axis) -> bool:
    return all(letter == "C" for letter, _ in axis)


def merged(axis: Sequence[Factor]) -> Axis:
    """Neighbouring factors of channels, or of copies, as one."""
    out: list[Factor] = []
    for letter, length in axis:
        if out and letter in _CUT and out[-1][0] == letter:
            out[-1] = (letter, out[-1][1] * length)
        else:
            out.append((letter, length))
    return tuple(out)


def viewed(axes: Axes, shape: Sequence[int]) -> Axes:
    """The axes of ``tensor.reshape(shape)``."""
    left = [factor for axis in axes for factor in axis]
    out = []
    for length in shape:
        axis: list[Factor] = []
        while length > 1:
            letter, size = left.pop(0)
            if length % size and size % length:
                raise AxesError(f"a view that cuts {size} {_NAMES[letter]} into {length}")
            if size > length:
                if letter not in _CUT:
                    raise AxesError(f"a view that cuts the {_NAMES[letter]}")
                left.insert(0, (letter, size // length))
                size = length
            axis.append((letter, size))
            length //= size
        out.append(merged(axis))
    return tuple(out)


_NAMES = {"B": "batch", "C": "channels", "H": "rows", "W": "columns", "R": "copies"}


def grid(axes: Axes) -> Tensor:
    """The index of every channel, as a tensor of one dimension per axis."""
    counts = [channels_of(axis) for axis in axes]
    return torch.arange(prod(counts), device="cpu").view(counts)


def permuted(axes: Axes, order: Sequence[int]) -> tuple[Axes, Tensor]:
    """The axes after a permutation, and which channel each new one was."""
    return tuple(axes[d] for d in order), grid(axes).permute(*order).flatten()


def common(a: Axes, b: Axes) -> tuple[Axes, Tensor, Tensor]:
    """The axes of an elementwise result of two tensors, and which channel of a and of b each of its channels reads."""
    rank = max(len(a), len(b))
    a, b = (((),) * (rank - len(axes)) + axes for axes in (a, b))
    axes, factors = [], list[tuple[int, bool, bool]]()  # of channels: length, whether a and b have it
    for one, other in zip(a, b, strict=True):
        axis: list[Factor] = []
        for letter, length, ours, theirs in _refined(list(one), list(other)):
            axis.append((letter, length))
            if letter == "C":
                factors.append((length, ours, theirs))
        axes.append(merged(axis))
    rows = []
    for which in (1, 2):
        lengths = [f[0] if f[which] else 1 for f in factors]
        index = torch.arange(prod(lengths), device="cpu").view(lengths)
        rows.append(index.expand([f[0] for f in factors]).flatten())
    return tuple(axes), rows[0], rows[1]


def _refined(a: list[Factor], b: list[Factor]) -> list[tuple[str, int, bool, bool]]:
    """Factors that divide both axes: letter, length, and whether a and b have it as channels."""
    if not a or not b:
        return [(letter, n, letter == "C" and bool(a), letter == "C" and bool(b)) for letter, n in a or b]
    out = []
    while a and b:
        (x, n), (y, m) = a.pop(0), b.pop(0)
        if n != m:
            small, large = min(n, m), max(n, m)
            letter, rest = (x, a) if n > m else (y, b)
            if large % small or letter not in _CUT:
                raise AxesError(f"{n} {_NAMES[x]} beside {m} {_NAMES[y]}")
            rest.insert(0, (letter, large // small))
            n = small
        if x != y and "R" not in (x, y):
            raise AxesError(f"{_NAMES[x]} beside {_NAMES[y]}")
        out.append((y if x == "R" else x, n, x == "C", y == "C"))
    if a or b:
        raise AxesError("dimensions of two lengths")
    return out


@dataclass(frozen=True)
class Recipe:
    """How a plain tensor beside a value of some axes is read as ``[B or 1, channels, h, w]``.

    ``has``: whether each factor is in the tensor, which is the same along the others.
    """

    factors: tuple[Factor, ...]
    has: tuple[bool, ...]

    @property
    def is_vector(self) -> bool:
        return not any(letter in "HW" for letter in self._letters)

    @property
    def _letters(self) -> list[str]:
        return [letter for (letter, _), has in zip(self.factors, self.has, strict=True) if has]

    def rows(self) -> Tensor:
        """Which channel of the tensor each channel of the value reads."""
        channels = [(n, has) for (letter, n), has in zip(self.factors, self.has, strict=True) if letter == "C"]
        lengths = [n if has else 1 for n, has in channels]
        return torch.arange(prod(lengths), device="cpu").view(lengths).expand([n for n, _ in channels]).flatten()

    def __call__(self, tensor: Tensor, batch: int) -> Tensor:
        """batch: of the tensor, where that is one of its factors."""
        letters = self._letters
        lengths = [n for (_, n), has in zip(self.factors, self.has, strict=True) if has]
        lengths = [batch if letter == "B" else n for letter, n in zip(letters, lengths, strict=True)]
        order = [i for wanted in "BCHWR" for i, letter in enumerate(letters) if letter == wanted]
        tensor = tensor.reshape(lengths).permute(order)
        counts = [prod(lengths[i] for i in order if letters[i] == wanted) for wanted in "BCHWR"]
        return tensor.reshape(counts)[..., 0]


def recipe(axes: Axes, shape: Sequence[int]) -> Recipe:
    """The recipe of a tensor of this shape, broadcast beside a value of these axes."""
    shape = [1] * (len(axes) - len(shape)) + [*shape]
    factors: list[Factor] = []
    has: list[bool] = []
    for axis, length in zip(axes, shape, strict=True):
        if length not in (1, length_of(axis)):
            raise AxesError(f"a dimension of {length} beside one of {length_of(axis)}")
        factors += axis
        has += [length > 1] * len(axis)
    return Recipe(tuple(factors), tuple(has))
