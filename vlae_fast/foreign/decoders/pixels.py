"""The scale, dtype and shape of what a decoder is given for an image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from .affine import Affine, Value
from .axes import axis_of
from .writer import MOVES, name_of

Scale = tuple[float, float]
_LENGTHS = {"B": 0, "C": 1, "H": 2, "W": 3}  # which dimension of [B, C, H, W]
_NEAR = 1e-5


@dataclass(frozen=True)
class Pixels:
    """``low + (high - low) x`` of x in [0, 1], or where ``levels`` is given the level ``(levels - 1) x`` itself.

    dims: of the input, each the letters of `x [B, C, H, W]` that it joins. integer: it is of dtype long.
    """

    dims: tuple[str, ...] = ("B", "C", "H", "W")
    low: float = 0.0
    high: float = 1.0
    levels: int = 0
    integer: bool = False

    @property
    def letters(self) -> str:
        return "".join(self.dims)

    def of(self, x: Tensor) -> Tensor:
        """The decoder's input of pixels ``[B, C, H, W]`` in [0, 1]."""
        if self.levels:
            x = (x * (self.levels - 1)).round()
        elif (self.low, self.high) != (0.0, 1.0):
            x = self.low + (self.high - self.low) * x
        order = [_LENGTHS[letter] for letter in self.letters]
        rest = [d for d in range(4) if d not in order]  # of length 1
        lengths = [prod(x.shape[_LENGTHS[letter]] for letter in dim) for dim in self.dims]
        x = x.permute(*order, *rest).reshape(lengths)
        return x.long() if self.integer else x

    def value(self, like: Tensor, batch: int) -> Value:
        """The same of buffer 0, as a traced tensor; like: an image ``[B, C, H, W]``."""
        _, channels, height, width = like.shape
        low, high = (0.0, self.levels - 1.0) if self.levels else (self.low, self.high)
        eye = torch.eye(channels).to(like) * (high - low)
        length = {"B": batch, "C": channels, "H": height, "W": width}
        axes = tuple(tuple(f for letter in dim for f in axis_of(letter, length[letter])) for dim in self.dims)
        return Value(Affine({(0, (0, 0)): eye}, like.new_full((channels,), low), (height, width)), axes)


def check_pixels(pixels: Any, levels: int) -> None:
    """ValueError unless pixels is None, "index" or (low, high)."""
    if pixels == "index" and not levels:
        raise ValueError("fast_sampler: pixels must be (low, high) or None for continuous pixels, got 'index'")
    if pixels is None or pixels == "index":
        return
    try:
        low, high = map(float, pixels)
    except (TypeError, ValueError):
        low = high = 0.0
    if not low < high:
        rule = "pixels must be (low, high), what the decoder is given for levels 0 and levels - 1, 'index' or None"
        raise ValueError(f"fast_sampler: {rule}, got {pixels!r}")


def candidates(pixels: Any, shape: tuple[int, int, int], levels: int) -> Iterator[Pixels]:
    """In which ways a decoder may be called, the most common first: x in [0, 1], then levels as integers."""
    channels, height, _ = shape
    dims: list[tuple[str, ...]] = [("B", "C", "H", "W")]
    if channels == 1:
        dims.append(("B", "H", "W"))
    if height == 1:
        dims += [("B", "C", "W"), *([("B", "W")] if channels == 1 else [])]
    dims += [("B", "H", "W", "C"), ("B", "CHW")]
    if height == 1:
        dims.append(("B", "W", "C"))
    indices = [Pixels(d, levels=levels, integer=integer) for integer in (True, False) for d in dims] if levels else []
    if pixels == "index":
        yield from indices
    elif pixels is not None:
        yield from (Pixels(d, float(pixels[0]), float(pixels[1])) for d in dims)
    else:
        yield from (Pixels(d) for d in dims)
        yield from (p for p in indices if p.integer)


def scale_told(graph: fx.Graph, levels: int) -> bool:
    """True where the first that a forward does to its floating point input is to divide it by a scale of indices:
    ``levels - 1``, half of it, and for more than four levels ``levels`` or half of that."""
    if levels < 3:
        return False
    scales = {1 / (levels - 1), 2 / (levels - 1)} | ({1 / levels, 2 / levels} if levels > 4 else set())
    gains = list(_gains(next(iter(graph.nodes)), 1.0))
    near = [any(abs(gain - scale) < _NEAR * scale for scale in scales) and gain < 0.9 for gain in gains]
    return bool(near) and all(near)


def _gains(node: fx.Node, gain: float) -> Iterator[float]:
    """By how much the input is multiplied before anything else is done to it, for each of its readers."""
    for user in node.users:
        name, other = name_of(user), user.args[1] if len(user.args) > 1 else None
        if name in MOVES or name == "_to_copy":
            yield from _gains(user, gain)
        elif name == "cat":
            yield gain
        elif name in ("mul", "mul_", "div", "div_") and user.args[0] is node and isinstance(other, int | float):
            yield from _gains(user, gain * other if name.startswith("mul") else gain / other)
        else:
            yield gain


def as_index(pixels: Pixels, levels: int) -> Pixels:
    """The same input, of indices."""
    return replace(pixels, levels=levels)
