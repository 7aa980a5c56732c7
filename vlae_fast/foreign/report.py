"""The report of `accelerate`, and the way back."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn


class Row(NamedTuple):
    """A module, what it is, and what it runs on now (None: its own forward, and ``why``)."""

    path: str
    was: str
    now: str | None
    why: str = ""


class Report:
    """The report of `accelerate`: rows ``(path, was, now, why)``, a table when printed; `undo` takes all swaps back.

    rows: of the modules in turn. swaps: what `undo` takes back, by module. by_path: what of that knows its times. A row
    says also how much faster it was measured to be, once it was called: the time of its own code by that of ours.
    """

    def __init__(
        self, rows: Sequence[Row], swaps: Sequence[tuple[nn.Module, Any]], by_path: Mapping[str, Any] | None = None
    ) -> None:
        self.rows, self._swaps, self._by_path = list(rows), list(swaps), dict(by_path or {})

    @property
    def replaced(self) -> list[str]:
        """Paths of the modules that have a fast forward or inverse by this call."""
        return [row.path for row in self.rows if row.now is not None]

    @property
    def left_alone(self) -> dict[str, str]:
        """Path -> why, of the others."""
        return {row.path: row.why for row in self.rows if row.now is None}

    @property
    def measured(self) -> dict[str, str]:
        """Path -> how much faster it was measured to be, of the modules that have been called."""
        return {path: said for path, swap in self._by_path.items() if (said := str(swap.measured))}

    def leave_slower_alone(self) -> None:
        """Gives what was measured, and was nowhere faster, its own back."""
        for i, row in enumerate(self.rows):
            swap = self._by_path.get(row.path)
            if row.now is None or swap is None or not swap.measured.always_slower:
                continue
            for module, found in self._swaps:
                if found is swap:
                    found.remove(module)
            said = str(swap.measured).partition(";")[0]
            self.rows[i] = Row(row.path, row.was, None, f"its own is as fast: {said}")

    def undo(self) -> None:
        """Gives every module of the model its own forward and inverse back, also what was there before; once."""
        for module, swap in self._swaps:
            swap.remove(module)
        self._swaps = []

    def _cells(self) -> list[tuple[str, str, str]]:
        """The table, its head first."""
        cells, measured = [("module", "what it was", "what it is now")], self.measured
        for row in self.rows:
            now = f"left alone: {row.why}"
            if row.now is not None:
                now = "; ".join(filter(None, (row.now, row.why, measured.get(row.path))))
            cells.append((row.path or "(the model)", row.was, now))
        return cells

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        """The table as a notebook shows it."""
        head, *rows = ([html.escape(cell) for cell in line] for line in self._cells())
        lines = [f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows]
        names = "".join(f"<th>{cell}</th>" for cell in head)
        table = f"<table><thead><tr>{names}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
        return f"{table}<p>{len(self.replaced)} of {len(self.rows)} replaced</p>"

    def __str__(self) -> str:
        cells = self._cells()
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells]
        return "\n".join([*lines, f"{len(self.replaced)} of {len(self.rows)} replaced"])
