"""Triton's interpreter without work that it repeats or throws away: the same results in a quarter of the time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

_undo = pytest.MonkeyPatch()


def quicken() -> None:
    """For all kernels that this process interprets."""
    from triton.language import core, semantic
    from triton.runtime import interpreter

    builder = interpreter.interpreter_builder
    # Else each sum and product of integers is computed in 64 bits too, for an assertion that only `debug` makes.
    _undo.setattr(builder, "options", replace(builder.options, sanitize_overflow=builder.options.debug))
    _undo.setattr(interpreter, "_get_np_dtype", _by_name(interpreter._get_np_dtype))
    _undo.setattr(core.block_type, "__init__", _kept_by_shape(core.block_type.__init__))
    _undo.setattr(core.tensor, "__init__", _kept_by_type(core.tensor.__init__))
    _undo.setattr(core, "_unwrap_if_constexpr", _plain_first(core._unwrap_if_constexpr, core))
    result_type = semantic.TritonSemantic.computation_type_impl
    _undo.setattr(semantic.TritonSemantic, "computation_type_impl", _by_names(result_type))
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


def _by_names(result_type: Callable[..., Any]) -> Callable[..., Any]:
    """The type that an operation computes in follows from the names of those of its operands."""
    known: dict[tuple[Any, ...], Any] = {}

    def found(self: Any, a: Any, a_is_scalar: bool, b: Any, b_is_scalar: bool, div_or_mod: bool) -> Any:
        key = a.name, a_is_scalar, b.name, b_is_scalar, div_or_mod
        if key not in known:
            known[key] = result_type(self, a, a_is_scalar, b, b_is_scalar, div_or_mod)
        return known[key]

    return found


def _kept_by_shape(make: Callable[..., None]) -> Callable[..., None]:
    """All that the type of a block has follows from its shape and that of its elements."""
    known: dict[tuple[Any, ...], dict[str, Any]] = {}

    def init(self: Any, element_ty: Any, shape: Any) -> None:
        key = element_ty.name, *shape
        if key not in known:
            make(self, element_ty, shape)
            known[key] = dict(self.__dict__)
        self.__dict__.update(known[key])

    return init


def _kept_by_type(make: Callable[..., None]) -> Callable[..., None]:
    """All that a tensor has but its data follows from its type."""
    known: dict[str, dict[str, Any]] = {}

    def init(self: Any, handle: Any, type: Any) -> None:
        if type.name not in known:
            make(self, handle, type)
            known[type.name] = dict(self.__dict__)
        self.__dict__.update(known[type.name])
        self.handle, self.type = handle, type

    return init


def _plain_first(unwrap: Callable[[Any], Any], core: Any) -> Callable[[Any], Any]:
    """Most of what is unwrapped is no constant of Triton's."""
    plain = {int, float, bool, str, core.dtype, core.block_type, core.pointer_type, core.tensor}
    return lambda value: value if type(value) in plain else unwrap(value)


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
