"""Packages that only the application side needs: imported where they are used, named where they are missing."""

from __future__ import annotations

import importlib
from typing import Any

INSTALL = 'install vlae-fast with its extra "app", e.g. pip install ".[app]" in a checkout'


class MissingExtraError(ImportError):
    """An optional package is not installed; the message says how to install it."""


def require(module: str) -> Any:
    """The module, or MissingExtraError with the one command that brings it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise  # it is installed, and something that it needs is not
        package = {"sklearn": "scikit-learn"}.get(module.partition(".")[0], module.partition(".")[0])
        raise MissingExtraError(f"{package} is needed here and is not installed: {INSTALL}") from error
