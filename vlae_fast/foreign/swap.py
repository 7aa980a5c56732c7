"""Methods of somebody else's module, replaced in place: by a class made for it, so that whoever calls is known.

An attribute of the module would be shared, with the module that it is bound to, by all copies that share a ``__dict__``
(replicas of `nn.DataParallel`, `copy.copy`). A class gives a method the module that it is called on.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

_RECORD, _OWN, _KIND = "_vlae_fast", "_vlae_fast_own", "_vlae_fast_kind"

R = TypeVar("R", bound="Swap")


class Swap:
    """The record of a method that was replaced: it lies in the module, and is copied with it.

    method: the name of the method. function: the stand-in, a function of the module and the method's arguments.
    """

    method: str
    function: Callable[..., Any]
    before: Callable[..., Any] | None = None  # of the module's own attribute of that name

    def install(self, module: nn.Module) -> None:
        """Raises TypeError where the module's class cannot be extended."""
        if is_parametrized(module):  # its class is its own already, and torch counts on its bases
            _add_methods(type(module), type(self))
        else:
            module.__class__ = _class_of(type(module), type(self))
        self.before = vars(module).pop(self.method, None)
        vars(module)[_RECORD] = self

    def remove(self, module: nn.Module) -> None:
        """Gives the method back; nothing is left to do where that has happened."""
        if vars(module).get(_RECORD) is not self:
            return
        del vars(module)[_RECORD]
        if _KIND in vars(type(module)) and issubclass(type(module), _Swapped):
            module.__class__ = _base_of(type(module))
        if self.before is not None:
            vars(module).setdefault(self.method, self.before)

    def own(self, module: nn.Module) -> Callable[..., Any]:
        """The module's own method."""
        return getattr(module, _OWN) if self.before is None else self.before

    def before_copy(self, module: nn.Module) -> None:
        """Prepares a module for being copied or pickled."""


def swap_of(module: nn.Module, kind: type[R]) -> R | None:
    """The record of the module, if there is one of that kind."""
    found = vars(module).get(_RECORD)
    return found if isinstance(found, kind) else None


def own_method(module: nn.Module, name: str) -> Callable[..., Any]:
    """A module's method as it was written, whatever stands in for it."""
    record = vars(module).get(_RECORD)
    if isinstance(record, Swap) and record.method == name and record.before is not None:
        return record.before
    bound = vars(module).get(name)
    return method_of_class(module, name) if bound is None or _is_ours(bound) else bound


def method_of_class(module: nn.Module, name: str) -> Callable[..., Any]:
    """The method that the module's class has by somebody else's code."""
    for kind in type(module).__mro__:
        function = vars(kind).get(name)
        if function is not None and not _is_ours(function):
            return function.__get__(module, type(module))
    raise AttributeError(f"{type(module).__name__} has no {name}")


def defaults_of(method: Callable[..., Any]) -> dict[str, Any]:
    """The arguments of a method behind its first, with their defaults, `inspect.Parameter.empty` for those without."""
    _, *further = inspect.signature(method).parameters.values()
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {p.name: p.default for p in further if p.kind not in kinds}


def _is_ours(function: Any) -> bool:
    return getattr(getattr(function, "__func__", function), _KIND, False)


def stands_in(function: Callable[..., Any]) -> Callable[..., Any]:
    """Marks a function that stands in for somebody else's method."""
    setattr(function, _KIND, True)
    return function


class _Swapped:
    """First base of the classes that are made here. No ``__slots__``: its instances need a module's memory layout."""

    def __init_subclass__(cls, **_: Any) -> None:
        """Hides the subclass from registries of subclasses, which a base may keep."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        kind: Any = type(self)
        if isinstance(record := vars(self).get(_RECORD), Swap):
            record.before_copy(self)  # type: ignore[arg-type]
        reduced: Any = super().__reduce_ex__(protocol)
        make, args, *rest = reduced
        if _KIND not in vars(kind):
            return (make, args, *rest)
        if make is kind:  # nobody can import a class that is made here
            return (_base_of(kind), args, *rest)
        if args and args[0] is kind:
            return (_remake, (make, _base_of(kind), vars(kind)[_KIND], args[1:]), *rest)
        return (make, args, *rest)


def _remake(make: Callable[..., Any], base: type, record: type[Swap], args: tuple[Any, ...]) -> Any:
    return make(_class_of(base, record), *args)


def _base_of(kind: type) -> type:
    return kind.__bases__[-1]


def _class_of(base: type, record: type[Swap]) -> type:
    """The class made of ``base``, one for all modules: its subclasses keep it for as long as one is in use."""
    known: type
    for known in type.__subclasses__(base):
        if vars(known).get(_KIND) is record and issubclass(known, _Swapped):
            return known
    names = {"__module__": base.__module__, "__qualname__": base.__qualname__, "__doc__": base.__doc__}
    return _add_methods(type(base)(base.__name__, (_Swapped, base), names), record)


def _add_methods(kind: Any, record: type[Swap]) -> Any:
    method = record.method

    if method == "forward":  # in every call of a layer: without `getattr`

        def own(self: Any, *args: Any, **by_name: Any) -> Any:
            return super(kind, self).forward(*args, **by_name)
    else:

        def own(self: Any, *args: Any, **by_name: Any) -> Any:
            return getattr(super(kind, self), method)(*args, **by_name)

    if vars(kind).get(_KIND) is not record:
        setattr(kind, method, vars(record)["function"] if "function" in vars(record) else record.function)
        setattr(kind, _OWN, own)
        setattr(kind, _KIND, record)
    return kind
