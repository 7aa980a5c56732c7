"""The receptive field of a decoder: the window of pixels that the parameters of one pixel depend on."""

from __future__ import annotations

from collections.abc import Sequence
from math import lcm
from typing import NamedTuple

from ..masks import Offset
from ..plan import Sites, Stage
from .program import Decoder, build_program


class ReceptiveField(NamedTuple):
    """Rows above and columns to the left and right that a pixel's parameters depend on, and how many pixels in all.

    ``pixels`` is less than what the rectangle holds where a stack of convolutions has a blind spot.
    """

    above: int  # rows
    left: int  # columns
    right: int
    pixels: int

    def __str__(self) -> str:
        columns, rows = self.left + 1 + self.right, self.above + 1
        return f"{self.pixels} pixels of a window of {columns} columns x {rows} rows" if self.pixels else "no pixels"


def receptive_field(decoder: Decoder) -> ReceptiveField:
    """The receptive field of a decoder, from the taps of its program: what its architecture lets it see in its image.

    A weight that happens to be zero counts; what lies further away than the image is wide or high does not.

    >>> from vlae_fast import PixelCNNDecoder
    >>> print(receptive_field(PixelCNNDecoder(n_layers=0, initial_kernel=7)))
    24 pixels of a window of 7 columns x 4 rows
    """
    if not getattr(decoder, "autoregressive", True):
        return ReceptiveField(0, 0, 0, 0)
    seen = offsets_seen(build_program(decoder).stages, decoder.image_size)
    rows, columns = [-dy for dy, _ in seen], [dx for _, dx in seen]
    return ReceptiveField(max([0, *rows]), -min([0, *columns]), max([0, *columns]), len(seen))


def offsets_seen(stages: Sequence[Stage], image_size: tuple[int, int]) -> set[Offset]:
    """Offsets (dy, dx) of the pixels of the image that the last stage depends on, at any pixel.

    Where stages have a stride, each phase of the image, the pixels at ``(i, j) + period * Z^2``, sees others.
    """
    height, width = image_size
    period = lcm(*(stage.sites.stride for stage in stages))
    phases = [(i, j) for i in range(period) for j in range(period)]
    seen: list[dict[Offset, set[Offset]]] = [{phase: {(0, 0)} for phase in phases}]
    for stage in stages:
        own: dict[Offset, set[Offset]] = {}
        for i, j in phases:
            if Sites(period, i, j).meet(stage.sites, (0, 0)):
                offsets = {
                    (dy + y, dx + x)
                    for buffer, (dy, dx) in set(stage.reads)
                    for y, x in seen[buffer][(i + dy) % period, (j + dx) % period]
                }
                if stage.kind == "attend":
                    for source in stage.sources[1:]:
                        before = set().union(*seen[source.buffer].values())
                        offsets |= _all_before(before, source.taps[0][1], image_size)
                own[i, j] = {(dy, dx) for dy, dx in offsets if abs(dy) < height and abs(dx) < width}
        seen.append(own)
        if stage.joins >= 0:
            seen[stage.joins] |= own
    return set().union(*seen[-1].values())


def _all_before(seen: set[Offset], last: int, image_size: tuple[int, int]) -> set[Offset]:
    """Offsets of what attention sees of a buffer that sees these: all of it up to column `last` of its own row."""
    height, width = image_size
    rows: dict[int, tuple[int, int]] = {}  # the columns of a row that are seen lie side by side
    for y, x in seen:
        for dy in range(1 - height, y + 1):
            least, most = rows.get(dy, (width, -width))
            rows[dy] = (min(least, x + 1 - width), max(most, x + last if dy == y else x + width - 1))
    return {(dy, dx) for dy, (first, end) in rows.items() for dx in range(first, end + 1)}
