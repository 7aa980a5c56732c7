"""The numbers of latent dimensions along an axis."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LINE = 0.1  # inches that a sideways label takes along the axis
_WORD = 0.22  # inches that an upright one of three digits takes


def number_dimensions(axes: Axes, order: Tensor) -> None:
    """Labels place i of the x axis with the dimension order[i]; where not all have room, every second, third, ...

    Labels lie on their side where that makes room.
    """
    inches = axes.get_window_extent().width / axes.figure.dpi / len(order)  # of one dimension
    every = max(1, math.ceil(_LINE / inches))
    at = range(0, len(order), every)
    upright = every == 1 and inches >= _WORD
    axes.set_xticks(list(at), [str(order[i].item()) for i in at], rotation=0 if upright else 90, fontsize="x-small")
