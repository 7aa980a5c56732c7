"""Operations that change the resolution: nearest upsampling, average pooling, pixels shuffled to channels and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ...masks import Offset
from .affine import Value, convolved, stacked
from .axes import Axes, axis_of, is_channels, length_of
from .moves import Moves
from .phases import Phases, shuffled, upsampled


class Scales(Moves):
    """A method for each operation; convolutions have their own."""

    def _upsampled(self, x: Value, *_: Any) -> Phases:
        x = x.without_copies()
        steps, axes = [1, 1], [*x.axes]
        for dim, length in enumerate(self.node.meta["val"].shape):
            if length == length_of(x.axes[dim]):
                continue
            letter, (times, rest) = x.letter(dim), divmod(length, length_of(x.axes[dim]))
            if letter not in ("H", "W") or rest:
                self._fail("nearest upsampling by whole factors", f"one of {list(x.shape)} by {length} at {dim}")
            steps["HW".index(letter)] = times
            axes[dim] = axis_of(letter, length)
        return upsampled(x.affine, (steps[0], steps[1]), tuple(axes))

    _op_upsample_nearest1d = _op_upsample_nearest2d = _upsampled
    _op__upsample_nearest_exact1d = _op__upsample_nearest_exact2d = _upsampled

    def _op_pixel_shuffle(self, x: Value, step: int) -> Phases:
        return shuffled(self._plain(x).affine, step, self._result_axes(x))

    def _op_pixel_unshuffle(self, x: Value, step: int) -> Value:
        own = self._plain(x).affine
        places = [(a, b) for a in range(step) for b in range(step)]
        parts = stacked([own.moved(a, b, own.size).strided((step, step)) for a, b in places])
        index = torch.arange(parts.channels, device="cpu").view(len(places), -1).T.flatten()
        return Value(parts.rows(index), self._result_axes(x))

    def _plain(self, x: Value) -> Value:
        """x as it is where it is [B, C, H, W], which may be of length 1."""
        if len(x.axes) != 4 or not is_channels(x.axes[1]) or [x.letter(2), x.letter(3)] != ["H", "W"]:
            self._fail("changes of resolution of [B, C, H, W]", f"one of {[x.letter(d) for d in range(len(x.axes))]}")
        return x

    def _result_axes(self, x: Value) -> Axes:
        """The axes of the result of the operation."""
        _, channels, height, width = self.node.meta["val"].shape
        return (x.axes[0], axis_of("C", channels), axis_of("H", height), axis_of("W", width))

    def _op_avg_pool2d(
        self,
        x: Value,
        sides: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0, 0),
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor: int | None = None,
    ) -> Value:
        """A convolution by equal weights."""
        own, by = self._plain(x.without_copies()).affine, stride or sides
        (rows, columns), pads = (_pair(n) for n in (sides, padding))
        if ceil_mode or (any(pads) and not count_include_pad):
            self._fail("average pooling of whole windows", "windows that are cut at the border")
        weight = torch.eye(own.channels).to(self.like)[:, :, None, None] / (divisor or rows * columns)
        own = self._padded(own, (pads[1], pads[1], pads[0], pads[0])) if any(pads) else own
        out = convolved(own, weight.expand(-1, -1, rows, columns), None, pads, (1, 1)).strided(_pair(by))
        return Value(out, self._result_axes(x))


def _pair(option: Sequence[int]) -> Offset:
    """One number for rows and columns, or one for each."""
    return (option[0], option[-1])
