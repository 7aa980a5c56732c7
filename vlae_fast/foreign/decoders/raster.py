"""Images as sequences of pixels in raster order, which models of sequences shift by a pixel behind a start token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from .affine import Affine, Dependent, Read, Value, total
from .axes import Axes, axis_of, shape_of
from .formulas import Formulas
from .writer import Bounded, Later, OverPixelsError

RULE = "sequences of all pixels, or shifted ones: a start token and then all pixels but the last"


@dataclass(frozen=True, eq=False)
class Stretch(Dependent):
    """Pixels ``start .. start + length - 1`` of a sequence along a dimension, with zeros before its first pixel.

    value: the whole sequence. tokens: what is added, with the place of each in the stretch: ``[B or 1, 1, channels]``
    beside the axes.
    """

    value: Value
    dim: int
    start: int
    length: int
    tokens: tuple[tuple[int, Any], ...] = ()

    @property
    def axes(self) -> Axes:
        return (*self.value.axes[: self.dim], axis_of("C", self.length), *self.value.axes[self.dim + 1 :])

    @property
    def shape(self) -> tuple[int, ...]:
        return shape_of(self.axes)

    def part(self, first: int, last: int) -> Stretch:
        tokens = tuple((at - first, token) for at, token in self.tokens if first <= at < last)
        return replace(self, start=self.start + first, length=last - first, tokens=tokens)


class Raster(Formulas):
    """Slices, joins and padding along a dimension of all pixels; a stretch as long as the image is a value again."""

    def _handler(self, name: str, args: Any, kwargs: Any) -> Any:
        if any(isinstance(arg, Stretch) for arg in args) and name not in ("slice", "constant_pad_nd", "contiguous"):
            got = f"{name} of a sequence of {next(a.length for a in args if isinstance(a, Stretch))} pixels"
            self._fail(RULE, got, OverPixelsError if name in ("mm", "addmm", "bmm") else ValueError)
        return super()._handler(name, args, kwargs)

    def _stretch(self, x: Any, dim: int) -> Stretch | None:
        """A sequence of all pixels as a stretch of itself; None of what is no sequence along this dimension."""
        if isinstance(x, Stretch):
            return x if x.dim == dim % len(x.value.axes) else None
        raster = axis_of("H", self.image[0]) + axis_of("W", self.image[1])
        if not isinstance(x, Value) or len(raster) < 2 or x.axes[dim % len(x.axes)] != raster:
            return None
        return Stretch(x, dim % len(x.axes), 0, prod(self.image))

    def _op_slice(self, x: Any, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Any:
        x = self._open(x) if isinstance(x, Bounded) and self._stretch(x.value, dim) else x
        stretch = self._stretch(x, dim)
        if stretch is None:
            if isinstance(x, Stretch):
                self._fail(RULE, f"a slice of a sequence of {x.length} pixels along another dimension")
            return super()._op_slice(x, dim, start, end, step)
        first, last, _ = slice(start, end).indices(stretch.length)
        if step != 1:
            self._fail(RULE, f"a slice of step {step}")
        return self._whole_again(stretch.part(first, max(first, last)))

    def _op_constant_pad_nd(self, x: Any, pad: Sequence[int], value: float = 0.0) -> Any:
        shape = x.shape if isinstance(x, Value | Stretch) else ()
        padded = [len(shape) - 1 - n for n in range(len(pad) // 2) if any(pad[2 * n : 2 * n + 2])]
        stretch = self._stretch(x, padded[0]) if len(padded) == 1 else None
        if stretch is None or value != 0:
            if isinstance(x, Stretch) or stretch is not None:
                self._fail(RULE, f"padding by {value:g}")
            return super()._op_constant_pad_nd(x, pad, value)
        n = 2 * (len(shape) - 1 - padded[0])
        return self._whole_again(stretch.part(-pad[n], stretch.length + pad[n + 1]))

    def _op_cat(self, parts: Sequence[Any], dim: int = 0) -> Any:
        sequences = [s for s in (self._stretch(part, dim) for part in parts) if s is not None]
        if not sequences:
            return super()._op_cat(parts, dim)
        stretch = sequences[0]
        if len(sequences) > 1 or parts[-1] is not (stretch if isinstance(parts[-1], Stretch) else stretch.value):
            self._fail(RULE, "a concatenation of pixels in another order")
        before = [self._shape_of(part)[dim] for part in parts[:-1]]
        if any(count != 1 for count in before):
            self._fail(RULE, f"{max(before)} tokens at once before its pixels")
        whole = stretch.part(-len(before), stretch.length)
        return self._whole_again(replace(whole, tokens=(*whole.tokens, *enumerate(parts[:-1]))))

    def _rolled(self, x: Any, shift: int, dim: int) -> Any:
        stretch = self._stretch(self._open(x) if isinstance(x, Bounded) else x, dim)
        if stretch is None:
            return super()._rolled(x, shift, dim)
        own, by = self._settle(stretch.value.affine), shift % stretch.length
        wrapped = total(self._moved_on(own, -by), self._moved_on(own, stretch.length - by)) if by else own
        return Value(wrapped, stretch.value.axes)

    @staticmethod
    def _shape_of(part: Any) -> Sequence[int]:
        return part.meta.shape if isinstance(part, Later) else part.shape

    def _whole_again(self, x: Stretch) -> Value | Stretch:
        """A stretch of as many pixels as the image has, as a value."""
        if x.length != prod(self.image):
            return x
        out = x.value.affine if x.start == 0 else self._moved_on(x.value.affine, x.start)
        for at, token in x.tokens:
            axes = (*x.value.axes[: x.dim], (), *x.value.axes[x.dim + 1 :])
            value = token if isinstance(token, Value) else self._lift(token, axes, (1, 1), (1, 1))
            if value.axes != axes:
                self._fail(RULE, "a start token of another shape")
            here = torch.zeros(1, prod(self.image)).to(self.like)
            here[0, at] = 1
            here, own = here.view(1, *self.image), replace(value.affine, size=self.image)
            out = total(out, self._times(own, here)) if own.terms else self._plus(out, own.bias[:, None, None] * here)
        return Value(out, x.value.axes)

    def _moved_on(self, x: Affine, by: int) -> Affine:
        """``out[n] = x[n + by]`` in raster order, 0 where there is no pixel n + by."""
        if x.bias.any() or any(buffer < 0 or tap != (0, 0) for buffer, tap in x.terms):
            x = self._settle(x)
        dy, dx = divmod(by, self.image[1])  # and in the row behind, where column + dx is beyond this one
        taps = [(dy, dx)] + ([(dy + 1, dx - self.image[1])] if dx else [])
        terms: dict[Read, Tensor] = {(b, tap): w for (b, _), w in x.terms.items() for tap in taps}
        return Affine(terms, x.bias, self.image)
