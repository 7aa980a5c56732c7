"""How a figure is made, shown once by a notebook, and written to disk."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._extras import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

_DPI = 150
_SAVED = "_vlae_fast_saved"  # set on a figure that `save_figure` has written
_ON_DISPLAY = "_ipython_display_"  # what IPython calls in place of its own display of an object


def new_figure(width: float, height: float) -> Figure:
    """An empty figure that pyplot knows; outside of the main thread, one that only its caller knows.

    It is at least 4 inches wide, so that titles fit, and at most 20 either way. pyplot's current figure is one for all
    threads, and most windows can be made in the main thread alone.
    """
    options: dict[str, Any] = {"figsize": (min(max(width, 4.0), 20.0), min(max(height, 2.0), 20.0))}
    options["layout"] = "constrained"
    figure: Figure
    if threading.current_thread() is not threading.main_thread():
        figure = require("matplotlib.figure").Figure(**options)
        return figure
    pyplot = require("matplotlib.pyplot")
    _make_room(pyplot)
    figure = pyplot.figure(**options)
    setattr(figure, _ON_DISPLAY, functools.partial(_show_once, figure))
    return figure


def one_axes(ax: Axes | None, width: float, height: float) -> tuple[Figure, Axes]:
    """The axes that a user gave and their figure, or those of a new figure of this size."""
    if ax is None:
        figure = new_figure(width, height)
        return figure, figure.add_subplot()
    return ax.figure.figure, ax  # the second: of a sub-figure, the figure


def axes_in(
    fig: Figure | SubFigure | None, width: float, height: float, rows: int, columns: int, **options: Any
) -> tuple[Figure, Figure | SubFigure, list[Axes]]:
    """Axes row by row in the figure or sub-figure that a user gave, or in a new one of this size.

    Gives the whole figure, the part that has the axes, and these. The first are pyplot's current ones.
    """
    part = new_figure(width, height) if fig is None else fig
    axes = part.subplots(rows, columns, squeeze=False, **options).ravel().tolist()
    part.sca(axes[0])
    return part.figure, part, axes


def save_figure(figure: Figure, path: str | Path) -> None:
    """Writes a figure; the ending of the name says in which format (png, pdf, svg, ...).

    The figure stays open: a notebook or `plt.show` can still show it. It is closed where many are open and one is made.
    """
    path = Path(path)
    known = figure.canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        raise ValueError(f"path: must end in one of {', '.join(sorted(known))}, got {str(path)!r}")
    replace_file(path, lambda fresh: figure.savefig(fresh, format=path.suffix[1:].lower(), dpi=_DPI))
    setattr(figure, _SAVED, True)


def check_target(path: str | Path, endings: Collection[str] = ()) -> None:
    """What `save_figure` and `replace_file` will ask of a path, before the work for it is done.

    endings: those allowed, such as ".png"; none: those of matplotlib.

    Raises:
        ValueError: another ending, or a folder. OSError: a place that cannot be written to.
    """
    path = Path(path)
    if not endings:
        canvas = require("matplotlib.backend_bases").FigureCanvasBase
        endings = [f".{ending}" for ending in sorted(canvas.get_supported_filetypes())]
    if path.suffix.lower() not in endings and not path.is_dir():
        rule = f"{'one of ' if len(endings) > 1 else ''}{', '.join(endings)}"
        raise ValueError(f"path: must end in {rule}, got {str(path)!r}")
    if path.exists() and not path.is_file():
        raise ValueError(f"path: must be a file or not be there, for it is replaced, got {str(path)!r}")
    place = path.resolve().parent
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise PermissionError(f"path: {str(path)!r} cannot be written: {place} must be a folder that can be written to")


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


def _make_room(pyplot: Any) -> None:
    """Where pyplot would warn that many figures are open, closes the oldest that was saved, if there is one."""
    numbers = pyplot.get_fignums()
    if 0 < pyplot.rcParams["figure.max_open_warning"] <= len(numbers):
        saved = (number for number in numbers if getattr(pyplot.figure(number), _SAVED, False))
        if oldest := next(saved, None):
            pyplot.close(oldest)


def _show_once(figure: Figure) -> None:
    """IPython's first display of a figure: with the inline backend, it takes the figure out of pyplot's list.

    The inline backend shows at the end of a cell all figures of that list. A figure that is the value of the cell has
    been shown by then, and would be shown again. Ours that were made before it come before it.
    """
    pyplot = require("matplotlib.pyplot")
    delattr(figure, _ON_DISPLAY)  # from here on it is displayed like any other figure
    number = getattr(figure, "number", None)
    if "inline" not in pyplot.get_backend() or number not in pyplot.get_fignums():
        require("IPython.display").display(figure)
        return
    for earlier in (pyplot.figure(n) for n in pyplot.get_fignums() if n < number):
        if show := getattr(earlier, _ON_DISPLAY, None):
            show()
    require("IPython.display").display(figure)
    pyplot.close(figure)
