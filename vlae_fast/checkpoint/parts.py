"""A user's own parts of a model: kept by the name of their class, made again from it.

A checkpoint runs no code of its author: the class must be one that the caller has imported already.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from typing import Any

from torch import nn

NAMES = ("encoder",)  # the parts of a VLAE that may be replaced


def own_parts(model: nn.Module, plain: nn.Module) -> dict[str, str]:
    """The parts of `model` that are of another class than those of `plain`, as ``module:class``."""
    kinds = {name: type(getattr(model, name)) for name in NAMES}
    return {
        name: f"{kind.__module__}:{kind.__qualname__}"
        for name, kind in kinds.items()
        if kind is not type(getattr(plain, name))
    }


def put(model: nn.Module, parts: Mapping[str, str]) -> None:
    """Replaces parts of the model by new ones of these classes, which are made without arguments.

    Raises:
        ValueError: a class is not imported, is no module, or asks for arguments.
    """
    for name, kind in parts.items():
        setattr(model, name, _make(name, kind))


def _make(name: str, kind: str) -> nn.Module:
    module, _, path = kind.partition(":")
    found: Any
    try:
        found = functools.reduce(getattr, path.split("."), sys.modules[module])
    except (KeyError, AttributeError):
        rule = "must be of a class at the top of a module that is imported"
        raise ValueError(f"checkpoint: {name} {rule}, got {kind!r:.100}: import it, then try again") from None
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ValueError(f"checkpoint: {name} must be of a class of modules, got {kind!r:.100}")
    try:
        made: nn.Module = found()
    except TypeError as error:
        raise ValueError(f"checkpoint: {name} must be of a class that is made without arguments: {error}") from error
    return made
