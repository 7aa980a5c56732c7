"""Which values cannot change, and what the code of somebody else's function reads."""

from __future__ import annotations

import datetime
import decimal
import enum
import fractions
import functools
import itertools
import logging
import pathlib
import re
import sys
import types
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

# attributes of a module that torch keeps, that hooks compute, that stand in for its forward; the padding that torch
# works out beforehand is read where it is not of zeros, and such layers are left alone
IGNORED = {*vars(nn.Module()), "forward", "weight", "bias", "_vlae_fast", "_reversed_padding_repeated_twice"}

_PLAIN: tuple[type, ...] = (
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    type(None),
    type(...),
    type(NotImplemented),
    range,
    slice,
)
_FIXED = (
    *(type, types.ModuleType, types.BuiltinFunctionType, types.GenericAlias, types.UnionType, torch.jit.ScriptFunction),
    *(types.MethodDescriptorType, types.WrapperDescriptorType, types.MethodWrapperType, types.GetSetDescriptorType),
    *(enum.Enum, re.Pattern, pathlib.PurePath, logging.Logger, fractions.Fraction, decimal.Decimal, datetime.date),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size),
    *(torch._ops.OpOverload, torch._ops.OpOverloadPacket),
)
_LIBRARIES = {"torch", "vlae_fast", "numpy", *sys.stdlib_module_names} - {"__main__"}
# methods that are called where no code names them
SPECIAL = {"__getattr__", "__getattribute__", "__getitem__", "__call__", "__get__"}
_READERS = {"getattr", "vars", "__dict__", "attrgetter", "__getattribute__", "eval", "exec", "globals", "locals"}
_READERS |= {"children", "modules", "named_children", "named_modules", "_modules"}


def is_fixed(value: Any) -> bool:
    """True where nothing in a value can become another."""
    if type(value) in _PLAIN or isinstance(value, _FIXED):
        return True
    if isinstance(value, types.FunctionType | functools._lru_cache_wrapper):
        return not getattr(value, "__closure__", None) and is_library(value) and not hasattr(value, "__wrapped__")
    return type(value).__module__ in ("typing", "numpy") and not hasattr(value, "__setitem__")


def is_library(value: Any) -> bool:
    """True where a class or a function is torch's, Python's or ours."""
    return (getattr(value, "__module__", None) or "").partition(".")[0] in _LIBRARIES


def names_in(values: Iterable[Any]) -> set[str]:
    """The names that the functions among the values mention, and their strings, which may be names of attributes."""
    found: set[str] = set()
    for value in values:
        function = getattr(value, "__func__", getattr(value, "fget", value))
        if isinstance(function, types.FunctionType):
            found |= _mentioned(function.__code__)
    return found


def _mentioned(code: types.CodeType) -> set[str]:
    lists = [c for c in code.co_consts if isinstance(c, tuple)]  # a class pattern's attributes are one
    found = {*code.co_names, *(c for c in itertools.chain(code.co_consts, *lists) if isinstance(c, str))}
    return found.union(*(_mentioned(c) for c in code.co_consts if isinstance(c, types.CodeType)))


def is_own(value: Any, home: set[str]) -> bool:
    """Whether a class or a module is somebody's own, or of one of the packages, and not a library's."""
    name = (value.__name__ if isinstance(value, types.ModuleType) else value.__module__) or ""
    installed = "site-packages" in (getattr(sys.modules.get(name), "__file__", None) or "")
    package = name.partition(".")[0]
    return package not in _LIBRARIES and (package in home or not installed)


def reads_by_name(mentioned: set[str]) -> bool:
    """True where code that mentions these names reads no attribute but those that it names."""
    return not mentioned & _READERS


def scope_of(function: types.FunctionType, home: set[str]) -> dict[str, Any] | None:
    """The global names of a function that is somebody's own code, or of one of the packages; None for a library's."""
    package = (function.__module__ or "").partition(".")[0]
    installed = "site-packages" in function.__code__.co_filename
    return None if package in _LIBRARIES or (installed and package not in home) else function.__globals__


def summary_of(value: Any) -> Any:
    """A number or a string as it is; for any other value, what stays the same of it in another process."""
    if type(value) in _PLAIN and type(value) is not type(...):
        return value
    if isinstance(value, type | types.ModuleType | types.FunctionType | nn.Module | torch._ops.OpOverload):
        code = getattr(getattr(value, "__code__", None), "co_code", b"")
        return (type(value).__qualname__, getattr(value, "__qualname__", getattr(value, "__name__", "")), code)
    named = getattr(value, "__qualname__", None)
    return (type(value).__qualname__, named or (repr(value) if isinstance(value, _FIXED) else ""))
