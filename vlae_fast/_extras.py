"""Packages that only the application side needs: imported where they are used, named where they are missing."""

from __future__ import annotations

import importlib
from typing import Any

INSTALL = 'pip install "vlae-fast[app]"'


class MissingExtraError(ImportError):
    """An optional package is not installed; the message says how to install it."""


def require(module: str) -> Any:
    """The module, or MissingExtraError with the one command that brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = {"sklearn": "scikit-learn"}.get(module.partition(".")[0], module.partition(".")[0])
        raise MissingExtraError(f"{package} is needed here and is not installed: {INSTALL}") from error
