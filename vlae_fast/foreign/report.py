"""The report of `accelerate`, and the way back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from .swap import Swap


class Row(NamedTuple):
    """A module, what it is, and what it runs on now (None: its own forward, and ``why``)."""

    path: str
    was: str
    now: str | None
    why: str = ""


class Report:
    """The report of `accelerate`: rows ``(path, was, now, why)``, a table when printed; `undo` takes all swaps back."""

    def __init__(self, rows: Sequence[Row], swaps: Sequence[tuple[nn.Module, Swap]]) -> None:
        self.rows, self._swaps = list(rows), list(swaps)

    @property
    def replaced(self) -> list[str]:
        """Paths of the modules that have a fast forward or inverse by this call."""
        return [row.path for row in self.rows if row.now is not None]

    @property
    def left_alone(self) -> dict[str, str]:
        """Path -> why, of the others."""
        return {row.path: row.why for row in self.rows if row.now is None}

    def undo(self) -> None:
        """Gives every module of the model its own forward and inverse back, also what was there before; once."""
        for module, swap in self._swaps:
            swap.remove(module)
        self._swaps = []

    def __str__(self) -> str:
        cells = [("module", "what it was", "what it is now")]
        for row in self.rows:
            now = f"left alone: {row.why}" if row.now is None else "; ".join(filter(None, (row.now, row.why)))
            cells.append((row.path or "(the model)", row.was, now))
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells]
        return "\n".join([*lines, f"{len(self.replaced)} of {len(self.rows)} replaced"])
