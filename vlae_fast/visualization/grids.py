"""Images in rows and columns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .._extras import require
from .figures import one_axes, replace_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BORDER = 2  # pixels between the tiles of a grid
_SCALE = 2  # screen pixels per image pixel: 28 pixels alone are a stamp
_PIXELS = 50  # of an image, to an inch of a figure
_CHARACTER = 0.06  # inches that a character of a small label takes


def grid(images: Tensor, columns: int) -> Tensor:
    """[N, C, H, W] -> one picture [C, H', W'], row by row of so many columns.

    Borders and the rest of the last row are grey (0.5).
    """
    if images.dim() != 4 or len(images) == 0:
        raise ValueError(f"images: must be [N, C, H, W] with N > 0, got {tuple(images.shape)}")
    if columns < 1:
        raise ValueError(f"columns: must be at least 1, got {columns}")
    n, channels, height, width = images.shape
    columns = min(columns, n)
    rows = math.ceil(n / columns)
    picture = images.new_full((channels, rows * (height + BORDER) + BORDER, columns * (width + BORDER) + BORDER), 0.5)
    for i, image in enumerate(images):
        top, left = i // columns * (height + BORDER) + BORDER, i % columns * (width + BORDER) + BORDER
        picture[:, top : top + height, left : left + width] = image
    return picture


def unit(images: Tensor) -> Tensor:
    """Images in 0..1, on the CPU in float32; bytes 0..255 are divided by 255.

    Raises:
        ValueError: numbers outside both ranges, which would come out black and white. Numbers just outside are clipped.
    """
    if images.dtype == torch.uint8:
        return images.detach().cpu().float() / 255
    if not (images.is_floating_point() or images.dtype == torch.bool):
        raise ValueError(f"images: must be floating point in 0..1 or bytes 0..255, got {images.dtype}")
    images = images.detach().float().cpu()
    if images.numel() and not (images.min() > -0.5 and images.max() < 1.5):
        least, most = images.min().item(), images.max().item()
        raise ValueError(f"images: must be in 0..1, or bytes 0..255 of dtype uint8, got {least:.3g} to {most:.3g}")
    return images


def save_grid(images: Tensor, path: str | Path, columns: int = 10) -> None:
    """Writes images in 0..1, or bytes 0..255, [N, 1 or 3, H, W], as one PNG of so many columns."""
    pixels = _pixels(grid(unit(images), columns))
    pixels = pixels.repeat_interleave(_SCALE, 0).repeat_interleave(_SCALE, 1)
    imsave = require("matplotlib.image").imsave
    replace_file(path, lambda fresh: imsave(fresh, pixels.mul(255).round().byte().numpy(), format="png"))


def plot_images(images: Tensor, title: str = "", *, columns: int | None = None, ax: Axes | None = None) -> Figure:
    """Images [N, C, H, W] row by row under a title, as nearly square as can be where `columns` is not given.

    In a notebook ``plot_images(model.sample(16))`` as the value of a cell shows the samples.

    ax: axes to draw on, those of a new figure where not given.
    """
    return _titled(images, columns or math.ceil(math.sqrt(len(images))), title, ax)[0]


def plot_table(
    images: Tensor,
    title: str,
    *,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    sideways: bool = False,
    ax: Axes | None = None,
) -> Figure:
    """Images [rows, columns, C, H, W] as a table with a name before each row and above each column, where given.

    sideways: turns the columns' names, for long ones. ax: axes to draw on, those of a new figure where not given.
    """
    if images.dim() != 5 or 0 in images.shape[:2]:
        raise ValueError(f"images: must be [rows, columns, C, H, W], not empty, got {tuple(images.shape)}")
    for name, names, count in (("rows", rows, len(images)), ("columns", columns, images.shape[1])):
        if names and len(names) != count:
            raise ValueError(f"{name}: must be {count} names, got {len(names)}")
    beside = 0.2 + _CHARACTER * max(map(len, rows)) if rows else 0.0
    above = (0.2 + _CHARACTER * max(map(len, columns)) if sideways else 0.3) if columns else 0.0
    figure, axes = _titled(images.flatten(0, 1), images.shape[1], title, ax, beside, above)
    height, width = (side + BORDER for side in images.shape[3:])
    axes.set_yticks([(i + 0.5) * height + BORDER / 2 - 0.5 for i in range(len(rows))], rows)
    axes.set_xticks(
        [(i + 0.5) * width + BORDER / 2 - 0.5 for i in range(len(columns))], columns, rotation=90 if sideways else 0
    )
    if sideways and ax is None:
        figure.draw_without_rendering()  # the first layout does not know how high the title stands above long names
    return figure


def _titled(
    images: Tensor, columns: int, title: str, ax: Axes | None, beside: float = 0.0, above: float = 0.0
) -> tuple[Figure, Axes]:
    """A grid of images without ticks, with so many inches left for names beside and above it."""
    picture = grid(unit(images), columns)
    height, width = (side / _PIXELS for side in picture.shape[1:])
    figure, axes = one_axes(
        ax, max(width, 1.25 * _CHARACTER * len(title)) + beside, height + above + 0.4  # a title is not cut
    )  # fmt: skip
    show(axes, picture)
    axes.tick_params(length=0, labelsize="x-small", top=False, labeltop=True, bottom=False, labelbottom=False)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(title, fontsize="small")
    return figure, axes


def show(axes: Axes, picture: Tensor, **options: Any) -> None:
    """A picture [1 or 3, H, W] in 0..1 on the axes, every pixel sharp."""
    pixels = picture[0] if len(picture) == 1 else _pixels(picture)
    axes.imshow(pixels.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest", **options)
    axes.grid(False)  # which a style may draw


def _pixels(picture: Tensor) -> Tensor:
    """[1 or 3, H, W] -> [H, W, 3] in 0..1."""
    if picture.shape[0] not in (1, 3):
        raise ValueError(f"images: must have 1 or 3 channels, got {picture.shape[0]}")
    return picture.clamp(0, 1).expand(3, -1, -1).permute(1, 2, 0)
