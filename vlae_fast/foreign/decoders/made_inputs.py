"""The inputs of a traced MADE for levels, and what it makes of each dimension's level before it mixes them: tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS = 32  # of the batches that a module is traced and run with
_NEAR = 64  # roundings: a product may depend on where in a vector register it is computed
_RANDOM = 2 * ROWS  # vectors that a table is checked with


@dataclass(frozen=True)
class Form:
    """How levels ``[R, D]`` are given to a module.

    scale: (low, high) for level 0 and the last; None: the level itself, or a one-hot row of it where there is an order
    of D and K. integer: of dtype long.
    """

    levels: tuple[int, ...]  # K of each dimension
    scale: tuple[float, float] | None = None
    integer: bool = False
    one_hot: str = ""  # "DK", "KD": which of both comes first
    flat: bool = False  # [R, D K]

    def of(self, levels: Tensor, like: Tensor) -> Tensor:
        """The module's input for levels, of the dtype and device of `like` unless it is of integers."""
        if self.one_hot:
            rows = F.one_hot(levels, max(self.levels)).to(like)
            if len(set(self.levels)) > 1:  # K differs: blocks side by side
                return torch.cat([rows[:, d, :k] for d, k in enumerate(self.levels)], 1)
            rows = rows if self.one_hot == "DK" else rows.transpose(1, 2)
            return rows.flatten(1) if self.flat else rows
        if self.scale is None:
            return levels if self.integer else levels.to(like)
        low, high = self.scale
        last = torch.tensor([max(k - 1, 1) for k in self.levels], device=levels.device)
        return low + (high - low) * (levels.to(like) / last.to(like))


def forms(pixels: Any, levels: tuple[int, ...]) -> Iterator[Form]:
    """In which ways a module may be called, the most common first."""
    indices = (Form(levels, integer=True), Form(levels))
    ways = [(order, flat) for flat in (True, False) for order in ("DK", "KD")]
    one_hot = [Form(levels, one_hot=order, flat=flat) for order, flat in ways]
    if isinstance(pixels, str):
        yield from indices if pixels == "index" else one_hot
    elif pixels is not None:
        yield Form(levels, (float(pixels[0]), float(pixels[1])))
    else:
        yield Form(levels, (0.0, 1.0))
        yield from (*indices[:1], *one_hot)


class Probes:
    """Levels ``[R, D]`` from which it can be told on which dimension a number depends, and what it is for each level.

    First all dimensions are at level l, for each l; then, for each bit of a dimension's number, those with the bit are
    at the level after l; then at random.
    """

    def __init__(self, levels: Sequence[int]) -> None:
        self.levels, self.most, self.dim = tuple(levels), max(levels), len(levels)
        self.bits = (self.dim - 1).bit_length()
        every, last = torch.arange(self.most, device="cpu")[:, None], torch.tensor(levels, device="cpu") - 1
        number = torch.arange(self.dim, device="cpu")
        parts = [torch.minimum(every, last)]
        for bit in range(self.bits):
            moved = torch.where((number >> bit & 1).bool(), (every + 1) % self.most, every)
            parts.append(torch.minimum(moved, last))
        generator = torch.Generator().manual_seed(0)
        chance = torch.rand(_RANDOM, self.dim, generator=generator, device="cpu")
        parts.append((chance * (last + 1)).long().clamp(max=last))
        whole = torch.cat(parts)
        self.rows = len(whole)
        self.values = torch.cat([whole, whole[-1:].expand(-len(whole) % ROWS, -1)])

    def table(self, values: Tensor, refuse: Callable[[str], NoReturn]) -> tuple[Tensor, Tensor]:
        """Rows ``[K, P]`` of numbers by level and the dimension ``[P]`` of each, of their ``values`` ``[R, P]``.

        The dimension of a constant is -1.
        """
        values = values[: self.rows]
        table, rest = values[: self.most], values[self.most :]
        near = _NEAR * torch.finfo(values.dtype).eps * float(values.abs().amax()) if values.numel() else 0.0
        dimension = torch.zeros(values.shape[1], dtype=torch.int64, device=values.device)
        for bit in range(self.bits):
            moved = rest[bit * self.most : (bit + 1) * self.most]
            dimension += ((moved - table).abs() > near).any(0).long() << bit
        levels = self.values[self.rows - _RANDOM : self.rows].to(values.device)
        known = dimension < self.dim
        row = levels[:, dimension.clamp(max=self.dim - 1)]
        if not (known & ((values[-_RANDOM:] - table.gather(0, row)).abs() <= near).all(0)).all():
            refuse("numbers of several dimensions")
        return table, torch.where(table.amax(0) - table.amin(0) <= near, -1, dimension)
