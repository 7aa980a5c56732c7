"""Triton's interpreter without work that it repeats or throws away: the same results in less than half the time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

_undo = pytest.MonkeyPatch()


def quicken() -> None:
    """For all kernels that this process interprets."""
    from triton.runtime import interpreter

    builder = interpreter.interpreter_builder
    # Else each sum and product of integers is computed in 64 bits too, for an assertion that only `debug` makes.
    _undo.setattr(builder, "options", replace(builder.options, sanitize_overflow=builder.options.debug))
    _undo.setattr(interpreter, "_get_np_dtype", _by_name(interpreter._get_np_dtype))
    if hasattr(interpreter, "_LangPatchScope"):  # older versions patch the language for good
        _undo.setattr(interpreter, "_patch_lang", _once_a_launch(interpreter._patch_lang))


@contextmanager
def as_it_is() -> Iterator[None]:
    """The interpreter that Triton has."""
    _undo.undo()
    try:
        yield
    finally:
        quicken()


def _by_name(np_dtype: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Triton's makes a table of all types at each call."""
    known: dict[str, Any] = {}

    def found(dtype: Any) -> Any:
        if dtype.name not in known:
            known[dtype.name] = np_dtype(dtype)
        return known[dtype.name]

    return found


class _Launch:
    """What a launch has patched, until it restores it."""

    def __init__(self, scope: Any, patched: set[int]) -> None:
        self.scope, self.patched = scope, patched

    def restore(self) -> None:
        self.patched.clear()
        self.scope.restore()


def _once_a_launch(patch_lang: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A call of a function in a kernel patches the language that its module sees; once a launch is enough."""
    patched: set[int] = set()

    def patch(fn: Any) -> Any:
        if (module := id(fn.__globals__)) in patched:
            return None  # which only a launch looks at
        is_launch = not patched
        patched.add(module)
        scope = patch_lang(fn)
        return _Launch(scope, patched) if is_launch else scope

    return patch
