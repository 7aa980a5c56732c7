"""When each stage computes each pixel: a wavefront, derived from the taps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..plan import Stage


class Schedule(NamedTuple):
    """Stage s computes column j of row i at step ``j + slope * i - leads[s]``; pixel (i, j) is drawn when lead is 0."""

    slope: int
    leads: tuple[int, ...]
    steps: int


def leads_at(stages: Sequence[Stage], slope: int, size: tuple[int, int]) -> list[int]:
    """The largest lead of every stage at a slope.

    A read of buffer m at tap (dy, dx) needs ``lead <= lead_m - dx - slope * dy``. The image is written last in a step,
    so it counts as a stage of lead -1. Taps that never land in the image set no limit.
    """
    leads = [-1]
    for stage in stages:
        reads = [(source.buffer, dy, dx) for source in stage.sources for dy, dx in source.taps]
        if stage.residual >= 0:
            reads.append((stage.residual, 0, 0))
        limits = [leads[m] - dx - slope * dy for m, dy, dx in reads if abs(dy) < size[0] and abs(dx) < size[1]]
        # nothing is gained by running further ahead than the whole image
        leads.append(min([size[1] + slope * size[0], *limits]))
    return leads[1:]


def derive(stages: Sequence[Stage], size: tuple[int, int], *, order: str = "wavefront") -> Schedule:
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
    reach = sum(max((abs(dx) for s in stage.sources for _, dx in s.taps), default=0) for stage in stages)
    most = width + reach + 1  # no tap makes up for a row here: what has leads is causal in raster order
    slope, leads = width if order == "raster" else 0, leads_at(stages, most, size)
    if leads[-1] < 0:
        # a lead of -1 waits for this very pixel
        own = "its own pixel: a pixel's channels are drawn at once, and none may see another"
        raise ValueError(
            "PixelCNNSampler: decoder must read only pixels before its own in raster order, "
            f"got one that reads {own if leads[-1] == -1 else 'ahead'}"
        )
    while (leads := leads_at(stages, slope, size))[-1] < 0:
        slope += 1
    return Schedule(slope, tuple(leads), width + slope * (height - 1))
