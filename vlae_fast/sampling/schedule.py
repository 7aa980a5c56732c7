"""When each stage computes each pixel: a wavefront, derived from the taps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..masks import Offset
from ..plan import Draw, Stage, all_draws, computable


class Schedule(NamedTuple):
    """Stage s computes column j of row i at step ``j + slope * i - leads[s]``; pixel (i, j) is drawn when lead is 0."""

    slope: int
    leads: tuple[int, ...]
    steps: int


def is_later(stage: int, buffer: int, tap: Offset, draws: Sequence[Draw]) -> bool:
    """True where what a stage reads is written behind it in a step, so that it counts as written one step later.

    A pixel of the image is written by the last draw; a stage behind the first draw reads the channels of its own pixel
    that are drawn so far.
    """
    return buffer > stage if buffer else stage < draws[0 if tap == (0, 0) else -1].after


def leads_at(
    stages: Sequence[Stage], slope: int, size: tuple[int, int], draws: tuple[Draw, ...] = ()
) -> tuple[list[int], int]:
    """The largest lead of every stage at a slope, and the least of what is drawn: below 0 it comes too late.

    A read of buffer m at tap (dy, dx) needs ``lead <= lead_m - dx - slope * dy``, one less where m is written later in
    a step (`is_later`); the image has lead 0. Taps that never land in the image set no limit. A stage that others
    before it read does not run ahead.
    """
    draws = all_draws(len(stages), draws)
    behind = {buffer - 1 for s, stage in enumerate(stages) for buffer, _ in stage.reads if buffer > s}
    leads = [0] * (len(stages) + 1)
    for s in computable(stages):
        limits = [
            leads[m] - dx - slope * dy - is_later(s, m, (dy, dx), draws)
            for m, (dy, dx) in stages[s].reads
            if abs(dy) < size[0] and abs(dx) < size[1]
        ]
        # nothing is gained by running further ahead than the whole image
        leads[s + 1] = min([0 if s in behind else size[1] + slope * size[0], *limits])
    return leads[1:], min(leads[draw.buffer] - (draw.buffer > draw.after) for draw in draws)


def derive(
    stages: Sequence[Stage], size: tuple[int, int], *, order: str = "wavefront", draws: tuple[Draw, ...] = ()
) -> Schedule:
    """The schedule of fewest steps for an image of ``size`` (H, W); ``order="raster"`` draws one pixel a step.

    >>> from ..plan import Source
    >>> a, b = ((-1, -1), (-1, 0), (-1, 1), (0, -1)), ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 0))
    >>> stages = [Stage(8, "elu", -1, 0, (Source(0, a),)), Stage(1, "none", -1, 0, (Source(1, b),))]
    >>> derive(stages, (28, 28)).steps
    82

    Raises:
        ValueError: the stages read what raster order draws later, even where some slope would draw that before.
    """
    if order not in ("wavefront", "raster"):
        raise ValueError(f"PixelCNNSampler: order must be wavefront or raster, got {order!r}")
    height, width = size
    reach = sum(1 + max((abs(dx) for s in stage.sources for _, dx in s.taps), default=0) for stage in stages)
    most = width + reach + 1  # no tap makes up for a row here: what has leads is causal in raster order
    _, drawn = leads_at(stages, most, size, draws)
    if drawn < 0:  # a lead of -1 waits for this very pixel
        raise ValueError(
            "PixelCNNSampler: decoder must read only pixels before its own in raster order, "
            f"got one that reads {'its own pixel' if drawn == -1 else 'ahead'}"
        )
    slope = width if order == "raster" else 0
    while (found := leads_at(stages, slope, size, draws))[1] < 0:
        slope += 1
    return Schedule(slope, tuple(found[0]), width + slope * (height - 1))
