"""Packages that only the application side needs: imported where they are used, named where they are missing."""

from __future__ import annotations

import importlib
import sys
import warnings
from typing import Any

INSTALL = 'install vlae-fast with its extra "app", e.g. pip install ".[app]" in a checkout'
_OTHERS = {  # what brings a package that is not in that extra
    "constriction": INSTALL.replace("app", "codec"),
    "huggingface_hub": INSTALL.replace("app", "hub"),
    "tensorboard": INSTALL.replace("app", "log"),
    "torchvision": "pip install torchvision, the release that goes with your torch",
}
_LOG_SECONDS = 30.0  # a log file gets a line in so many


class MissingExtraError(ImportError):
    """An optional package is not installed; the message says how to install it."""


def require(module: str) -> Any:
    """The module, or MissingExtraError with the one command that brings it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise  # it is installed, and something that it needs is not
        top = module.partition(".")[0]
        package = {"sklearn": "scikit-learn", "PIL": "pillow"}.get(top, top)
        raise MissingExtraError(
            f"{package} is needed here and is not installed: {_OTHERS.get(top, INSTALL)}"
        ) from error


def progress_bar(shown: bool, *, desc: str, total: int, unit: str = "it", leave: bool = True, **options: Any) -> Any:
    """A bar of `tqdm.auto` on stderr, or in a notebook. Elsewhere, as in a log file, a line in a while.

    leave: keeps it, or its last line, at the end; else a log that took little time has nothing of it.
    """
    often = {"mininterval": 0.5} if live() else {"mininterval": _LOG_SECONDS, "delay": 0.0 if leave else _LOG_SECONDS}
    return _tqdm()(
        desc=desc, total=total, unit=unit, leave=leave, file=sys.stderr, disable=not shown, dynamic_ncols=True,
        **often, **options,
    )  # fmt: skip


def live() -> bool:
    """True where a bar can be redrawn: stderr is a terminal, or the code runs in a notebook."""
    return sys.stderr.isatty() or any(cls.__module__ == "tqdm.notebook" for cls in _tqdm().__mro__)


def progress_line(text: str) -> None:
    """A line on stderr, above the bars that are there."""
    _tqdm().write(text, file=sys.stderr)


def _tqdm() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a notebook without widgets, where bars are text
        return require("tqdm.auto").tqdm
