"""When each stage computes each pixel: a wavefront, derived from the taps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..plan import Draw, Link, Stage, all_draws, computable, links, writers_of


class Schedule(NamedTuple):
    """Stage s computes a pixel (i, j) of its sites at step ``j + slope * i - leads[s]``; it is drawn at lead 0."""

    slope: int
    leads: tuple[int, ...]
    steps: int


def is_later(stage: int, link: Link, draws: Sequence[Draw]) -> bool:
    """True where what a stage reads is written behind it in a step, so that it counts as written one step later.

    A pixel of the image is written by the last draw; a stage behind the first draw reads the channels of its own pixel
    that are drawn so far.
    """
    return link.writer > stage if link.writer >= 0 else stage < draws[0 if link.tap == (0, 0) else -1].after


class _Leads:
    """The leads of stages at any slope.

    ``limits`` of a stage: (writer, dx, dy, 1 where it writes later) of each read that can land in the image.
    """

    def __init__(self, stages: Sequence[Stage], size: tuple[int, int], draws: tuple[Draw, ...]) -> None:
        self.size, self.order, own = size, computable(stages), links(stages, size[1])
        self.draws = all_draws(len(stages), draws)
        self.limits = [
            {
                (link.writer, link.tap[1], link.tap[0], is_later(s, link, self.draws))
                for link in reads
                if abs(link.tap[0]) < size[0] and abs(link.tap[1]) < size[1]
            }
            for s, reads in enumerate(own)
        ]
        self.behind = {link.writer for s, reads in enumerate(own) for link in reads if link.writer >= s}
        self.drawn = [(w, w >= draw.after) for draw in self.draws for w in self._writers(stages, draw.buffer)]

    @staticmethod
    def _writers(stages: Sequence[Stage], buffer: int) -> list[int]:
        writers = writers_of(stages, buffer)
        if not writers or len(writers) != stages[writers[0]].sites.stride ** 2:
            rule = "the program must compute what it draws from at all pixels"
            raise ValueError(f"PixelCNNSampler: {rule}, got {len(writers)} phases of buffer {buffer}")
        return writers

    def at(self, slope: int) -> tuple[list[int], int]:
        """The largest lead of every stage at a slope, and the least of what is drawn: below 0 it comes too late.

        What stage m computes, read at tap (dy, dx), needs ``lead <= lead_m - dx - slope * dy``, one less where m stands
        later in a step (`is_later`); the image has lead 0. A stage that others before it read does not run ahead.
        """
        leads = [0] * (len(self.order) + 1)  # the last is the image's, of index -1
        for s in self.order:
            limits = [leads[m] - dx - slope * dy - later for m, dx, dy, later in self.limits[s]]
            # nothing is gained by running further ahead than the whole image
            leads[s] = min([0 if s in self.behind else self.size[1] + slope * self.size[0], *limits])
        return leads[:-1], min(leads[w] - later for w, later in self.drawn)


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
        ValueError: the stages read what raster order draws later, even where some slope would draw that before, or
            what is drawn from is not computed at all pixels.
    """
    if order not in ("wavefront", "raster"):
        raise ValueError(f"PixelCNNSampler: order must be wavefront or raster, got {order!r}")
    height, width = size
    reach = sum(1 + max((abs(dx) for s in stage.sources for _, dx in s.taps), default=0) for stage in stages)
    most = width + reach + 1  # no tap makes up for a row here: what has leads is causal in raster order
    leads = _Leads(stages, size, draws)
    _, drawn = leads.at(most)
    if drawn < 0:  # a lead of -1 waits for this very pixel
        raise ValueError(
            "PixelCNNSampler: decoder must read only pixels before its own in raster order, "
            f"got one that reads {'its own pixel' if drawn == -1 else 'ahead'}"
        )
    slope = width if order == "raster" else 0
    while (found := leads.at(slope))[1] < 0:
        slope += 1
    return Schedule(slope, tuple(found[0]), width + slope * (height - 1))
