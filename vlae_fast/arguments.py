"""Checks of the types of what a user gives: each error says who asks, the argument, the rule and the value."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, nn


def check_kind(caller: str, name: str, value: Any, kind: type | tuple[type, ...], rule: str) -> None:
    """Raises TypeError unless a value is of a kind: ``name must be rule``."""
    if not isinstance(value, kind):
        raise TypeError(f"{caller}: {name} must be {rule}, got {spelled(value)}")


def check_module(caller: str, name: str, value: Any) -> None:
    check_kind(caller, name, value, nn.Module, "an nn.Module")


def check_tensor(caller: str, name: str, value: Any) -> None:
    check_kind(caller, name, value, Tensor, "a tensor")


def check_generator(caller: str, value: Any) -> None:
    if value is not None:
        check_kind(caller, "generator", value, torch.Generator, "a torch.Generator or None")


def whole(caller: str, name: str, value: Any) -> int:
    """The integer that a value is, of NumPy as well; raises TypeError where it is none."""
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{caller}: {name} must be an integer, got {spelled(value)}") from None


def spelled(value: Any) -> str:
    """A number or a text as it is written; of what may be long, its type."""
    if value is None or isinstance(value, bool | int | float | complex | str):
        return repr(value)
    return f"the class {value.__name__}" if isinstance(value, type) else f"a value of type {type(value).__name__}"
