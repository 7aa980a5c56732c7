"""Images in rows and columns, and how a picture gets to disk."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .._extras import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BORDER = 2  # pixels between the tiles of a grid
_SCALE = 2  # screen pixels per image pixel: 28 pixels alone are a stamp
_DPI = 150


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


def save_figure(figure: Figure, path: str | Path) -> None:
    """Writes a figure; the ending of the name says in which format (png, pdf, svg, ...)."""
    path = Path(path)
    known = figure.canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        raise ValueError(f"path: must end in one of {', '.join(sorted(known))}, got {str(path)!r}")
    replace_file(path, lambda fresh: figure.savefig(fresh, format=path.suffix[1:].lower(), dpi=_DPI))


def replace_file(path: str | Path, write: Callable[[Path], object]) -> None:
    """Has `write` make a file beside `path` and renames it: an error leaves what was there.

    Raises:
        ValueError: for a path that is no file's, such as a folder.
        OSError: where nothing can be written.
    """
    path = Path(path).resolve()  # keeps symbolic links working
    if path.exists() and not path.is_file():
        raise ValueError(f"path: must be a file or not be there, for it is replaced, got {str(path)!r}")
    fresh = path.with_name(f".{path.name}.{os.getpid()}.incomplete")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(fresh)
        os.replace(fresh, path)
    except OSError as error:
        raise OSError(f"path: {path} was not written: {error}") from error
    finally:
        with suppress(OSError):  # the error that says why comes first
            fresh.unlink(missing_ok=True)


def plot_table(
    images: Tensor, title: str, *, rows: Sequence[str] = (), columns: Sequence[str] = (), sideways: bool = False
) -> Figure:
    """Images [rows, columns, C, H, W] as a table with a name before each row and above each column, where given.

    sideways: turns the columns' names, for long ones.
    """
    if images.dim() != 5 or 0 in images.shape[:2]:
        raise ValueError(f"images: must be [rows, columns, C, H, W], not empty, got {tuple(images.shape)}")
    for name, names, count in (("rows", rows, len(images)), ("columns", columns, images.shape[1])):
        if names and len(names) != count:
            raise ValueError(f"{name}: must be {count} names, got {len(names)}")
    height, width = (side + BORDER for side in images.shape[3:])
    figure = new_figure(
        max(images.shape[1] * width / 50 + (1.2 if rows else 0), 0.075 * len(title)),  # a title is not cut
        len(images) * height / 50 + 0.4 + (0.3 if columns else 0),
    )
    axes = figure.add_subplot()
    show(axes, grid(unit(images.flatten(0, 1)), images.shape[1]))
    axes.tick_params(length=0, labelsize="x-small", top=False, labeltop=True, bottom=False, labelbottom=False)
    axes.set_yticks([(i + 0.5) * height + BORDER / 2 - 0.5 for i in range(len(rows))], rows)
    axes.set_xticks(
        [(i + 0.5) * width + BORDER / 2 - 0.5 for i in range(len(columns))], columns, rotation=90 if sideways else 0
    )
    for spine in axes.spines.values():
        spine.set_visible(False)
    figure.suptitle(title, fontsize="small")
    return figure


def show(axes: Axes, picture: Tensor, **options: Any) -> None:
    """A picture [1 or 3, H, W] in 0..1 on the axes, every pixel sharp."""
    pixels = picture[0] if len(picture) == 1 else _pixels(picture)
    axes.imshow(pixels.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest", **options)


def new_figure(width: float, height: float) -> Figure:
    """At least 4 inches wide, so that titles fit; at most 20 either way."""
    size = (min(max(width, 4.0), 20.0), min(max(height, 2.0), 20.0))
    figure: Figure = require("matplotlib.figure").Figure(figsize=size, layout="constrained")
    return figure


def _pixels(picture: Tensor) -> Tensor:
    """[1 or 3, H, W] -> [H, W, 3] in 0..1."""
    if picture.shape[0] not in (1, 3):
        raise ValueError(f"images: must have 1 or 3 channels, got {picture.shape[0]}")
    return picture.clamp(0, 1).expand(3, -1, -1).permute(1, 2, 0)
