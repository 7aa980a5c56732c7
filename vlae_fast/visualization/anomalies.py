"""The images that a model finds most unusual."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor

from .figures import axes_in
from .grids import show, unit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure, SubFigure

_COLUMNS = 10


def plot_anomalies(
    images: Tensor,
    scores: Tensor,
    labels: Tensor | Sequence[str] | None = None,
    *,
    n: int = 20,
    title: str | None = None,
    fig: Figure | SubFigure | None = None,
) -> Figure:
    """The n images [N, C, H, W] with the highest scores [N] in nats, the highest first, each under its class and score.

    labels: [N] classes, or a name for each image. fig: a figure or sub-figure to draw in, a new one where not given.
    """
    if images.dim() != 4 or len(images) == 0:
        raise ValueError(f"images: must be [N, C, H, W] with N > 0, got {tuple(images.shape)}")
    if scores.shape != images.shape[:1]:
        raise ValueError(f"scores: must be one per image, [{len(images)}], got {tuple(scores.shape)}")
    if labels is not None and len(labels) != len(images):
        raise ValueError(f"labels: must be one per image, {len(images)}, got {len(labels)}")
    if n < 1:
        raise ValueError(f"n: must be at least 1, got {n}")
    highest = scores.detach().cpu().sort(descending=True, stable=True).indices[:n].tolist()
    columns = min(len(highest), _COLUMNS)
    rows = math.ceil(len(highest) / columns)
    width, height = (max(0.9, side / 50) for side in (images.shape[3], images.shape[2]))
    figure, part, axes = axes_in(fig, columns * width + 0.2, rows * (height + 0.4) + 0.4, rows, columns)
    for one in axes:
        one.set_axis_off()
    for one, index, picture in zip(axes, highest, unit(images[highest]), strict=False):
        show(one, picture)
        name = "" if labels is None else f"{_name(labels[index])}\n"
        one.set_title(f"{name}{scores[index]:.1f} nats", fontsize="x-small")
    part.suptitle(title or f"the {len(highest)} highest scores of {len(images):,} images", fontsize="small")
    return figure


def _name(label: Tensor | str) -> str:
    return label if isinstance(label, str) else f"class {int(label)}"
