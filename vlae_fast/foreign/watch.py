"""Watches all that the forward of somebody else's module can read beside its weights, to notice changes."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from functools import partial
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from .changes import Items, Kept, Names, Variable, same
from .code import IGNORED, SPECIAL, is_fixed, is_library, is_own, names_in, reads_by_name, scope_of, summary_of
from .probe import ProbeError, is_mask

_MOST = 256  # places that are looked at in every call
_ENVIRONMENT = {"environ", "environb", "getenv", "getenvb"}
_WRAPPED = ("func", "args", "keywords", "__self__", "__func__", "fget")


class Watch:
    """Looks at the attributes that a module's code names, of the module, its parts and classes, and at its tensors.

    It looks also at what lies in lists, dicts and objects there, and at the variables of functions, global ones and
    those that they were made with. Parameters are not looked at, but for masks: a fast forward reads them anew.
    Raises ProbeError where something cannot be watched.
    """

    def __init__(self, root: nn.Module, methods: Iterable[str] = ("forward", "__call__")) -> None:
        self.root, self.methods = root, tuple(methods)
        self.names = set(self.methods)  # that the code mentions
        self.reads_all = False  # True where it may read attributes that it does not name
        known = -1
        with _disable_current_modes():  # a tracer would take a look for a part of the model
            while known != len(self.names):  # functions that are found mention further names
                known = len(self.names)
                self._look()
        if read := self.names & _ENVIRONMENT:
            raise ProbeError(f"changes of the environment, which it reads by {min(read)}, cannot be seen")

    def what_changed(self) -> str | None:
        """The name of something that is another, or has another value; None where all is as it was."""
        try:
            for place in self._places:
                if place.has_changed():
                    return self._look_again()
        except Exception:  # other people's ==, that of a tensor, a name that is gone
            return self._look_again()
        for kept in self._tensors:
            if kept.has_changed():
                return kept.name
        return None

    def _look_again(self) -> str | None:
        try:
            now = Watch(self.root, self.methods)
        except ProbeError as reason:
            return str(reason)
        changed = self.what_differs(now)
        if changed is None:
            self.__dict__ = now.__dict__
        return changed

    def what_differs(self, other: Watch) -> str | None:
        """The name of something that another watch of the same module found changed."""
        for path in [*self._found, *other._found]:
            shown, was = self._found.get(path, ("", Watch))
            instead, now = other._found.get(path, ("", Watch))
            tensors = isinstance(was, Kept) and isinstance(now, Kept)
            if not (was.has(now.source) if tensors else same(was, now)):
                return shown or instead
        return None

    def summary(self) -> dict[str, tuple[str, Any]]:
        """The values found, in a form that can be pickled and compared with those of a copy."""
        return {
            path: (shown, found.values if isinstance(found, Kept) else summary_of(found))
            for path, (shown, found) in self._found.items()
        }

    def is_fake(self) -> bool:
        """True where there are no values to look at: on meta, or while somebody traces."""
        return any(kept.is_fake for kept in self._tensors)

    def _look(self) -> None:
        self._seen: dict[int, Any] = {}
        self._places: list[Names | Items | Variable] = []
        self._tensors: list[Kept] = []
        self._found: dict[str, tuple[str, Any]] = {}  # by path: what a message calls it, what it is
        self._home = {kind.__module__.partition(".")[0] for kind in type(self.root).__mro__}
        self._trained = {id(p) for part in self.root.modules() for p in part._parameters.values()}
        self._seen[id(self.root)] = self.root
        self._module(self.root, "")
        self._seen = {}

    def _visit(self, value: Any, path: str, shown: str, read: Callable[[], Any] | None = None) -> None:
        """Looks into a value. ``read`` reads it anew where it may be a tensor."""
        if isinstance(value, Tensor | np.ndarray):
            self._tensor(value, path, shown, read or (lambda: value))
            return
        compared = is_fixed(value) or isinstance(value, nn.Module | FunctionType)
        self._found[path] = (shown, value if compared else type(value))
        if self._has_names(value):
            self._named(value, path)
        if id(value) in self._seen or is_fixed(value):
            return
        self._seen[id(value)] = value
        if isinstance(value, nn.Module):
            self._module(value, path)
        elif isinstance(value, dict):
            self._dict(value, list(value), path, shown)
        elif isinstance(value, list | set | frozenset | tuple):
            self._items(value, path, shown)
        elif isinstance(value, FunctionType):
            self._function(value, path, shown)
        else:
            self._object(value, path, shown)

    def _tensor(self, value: Any, path: str, shown: str, read: Callable[[], Any]) -> None:
        if id(value) in self._trained and not is_mask(shown, value):
            return
        try:
            kept = Kept(read, shown)
        except Exception as error:
            raise ProbeError(f"changes of {shown}, a {type(value).__name__}, cannot be seen") from error
        self._place(kept, self._tensors, shown)
        self._found[path] = (shown, kept)

    def _module(self, module: nn.Module, path: str) -> None:
        self._class(type(module), path)
        own = vars(module)
        record = own.get("_vlae_fast")
        for method in self.methods:
            bound = own.get(method) if record is None or record.method != method else record.before
            if bound is not None:  # to this module alone
                self._visit(bound, f"{path}.{method}", method)
        self._dict(own, [name for name in own if self._is_read(name)], path)
        if own["_modules"] or self.reads_all or module is not self.root:
            self._dict(own["_modules"], list(own["_modules"]), f"{path}.parts", "a part")
        for kind in ("_buffers", "_parameters"):
            for name, tensor in own[kind].items():
                if tensor is not None and (kind == "_buffers" or is_mask(name, tensor)):
                    self._tensor(tensor, f"{path}.{name}", name, partial(_registered, own, kind, name))

    def _is_read(self, name: str) -> bool:
        return name not in IGNORED and (self.reads_all or name in self.names)

    def _has_names(self, value: Any) -> bool:
        """Whether it is a class or a module of somebody's own, such as a configuration."""
        return isinstance(value, type | ModuleType) and is_own(value, self._home)

    def _named(self, value: type | ModuleType, path: str) -> None:
        """What code reads of a class, or of a module, that it names."""
        if isinstance(value, type):
            self._class(value, path)
        elif id(value) not in self._seen:
            self._seen[id(value)] = value
            self._globals(vars(value), self.names, f"module {value.__name__}", path)

    def _class(self, kind: type, path: str) -> None:
        for base in kind.__mro__:
            if base is nn.Module or "_vlae_fast_kind" in vars(base) or id(base) in self._seen:
                continue
            if is_library(base):
                self.names |= names_in(v for n, v in vars(base).items() if n in self.names)
            else:
                self._seen[id(base)] = base
                named = self.names | SPECIAL
                names = [n for n in vars(base) if n not in IGNORED - {"forward"} and n in named]
                self._dict(vars(base), names, f"{path}.{base.__name__}")

    def _dict(self, where: Any, keys: list[Any], path: str, shown: str | None = None) -> None:
        plain = [key for key in keys if not isinstance(where[key], Tensor | np.ndarray)]
        self._place(Names.of(where, plain), self._places, shown or path)
        for key in keys:
            self._visit(where[key], f"{path}.{key!s}", shown or str(key), partial(operator.getitem, where, key))

    def _items(self, where: Any, path: str, shown: str) -> None:
        if not isinstance(where, tuple | frozenset):
            self._place(Items(where, list(where)), self._places, shown)
        for i, value in enumerate(where):
            self._visit(value, f"{path}.{i}", shown, partial(_item, where, i))

    def _function(self, function: FunctionType, path: str, shown: str) -> None:
        if hasattr(function, "__wrapped__"):
            self._visit(function.__wrapped__, f"{path}.__wrapped__", shown)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            self._cell(cell, f"{path}.{name}", name)
        for default in (function.__defaults__, function.__kwdefaults__):
            self._visit(default, f"{path}.{type(default).__name__}", shown)
        scope = scope_of(function, self._home)
        if scope is None:
            return
        mentioned = names_in([function])
        self.names |= mentioned
        self.reads_all |= not reads_by_name(mentioned)
        self._globals(scope, mentioned, "global", shown)

    def _globals(self, scope: dict[str, Any], mentioned: set[str], path: str, shown: str) -> None:
        found = {name: scope[name] for name in sorted(mentioned & scope.keys())}
        read = [name for name, value in found.items() if _may_be_set(value) or self._has_names(value)]
        if read:
            plain = [name for name in read if not isinstance(scope[name], Tensor | np.ndarray)]
            self._place(Names.of(scope, plain, grows=True), self._places, shown)
        for name in read:
            self._visit(scope[name], f"{path} {name}", name, partial(operator.getitem, scope, name))

    def _cell(self, cell: CellType, path: str, name: str) -> None:
        try:
            value = cell.cell_contents
        except ValueError:  # not assigned yet
            return
        if not isinstance(value, Tensor | np.ndarray) and name != "__class__":  # of super()
            self._place(Variable(cell, value), self._places, name)
        self._visit(value, path, name, partial(getattr, cell, "cell_contents"))

    def _object(self, value: Any, path: str, shown: str) -> None:
        if isinstance(value, partial | MethodType | property | staticmethod | classmethod):
            for part in _WRAPPED:
                if (found := getattr(value, part, None)) is not None:
                    self._visit(found, f"{path}.{part}", shown)
        elif is_library(type(value)) and hasattr(value, "__enter__"):
            self.names.add(type(value).__name__)  # a mode that a decorator switches on: its state is the call's
        elif not hasattr(value, "__dict__") or hasattr(value, "__next__"):
            raise ProbeError(f"changes of {shown}, a {type(value).__name__}, cannot be seen")
        else:
            self._class(type(value), path)
            self._dict(
                vars(value), [n for n in vars(value) if self._is_read(n) or is_library(type(value))], path, shown
            )

    def _place(self, place: Any, among: list[Any], shown: str) -> None:
        among.append(place)
        if len(self._places) + len(self._tensors) > _MOST:
            raise ProbeError(f"more lies in {shown} than can be watched in every call")


def _may_be_set(value: Any) -> bool:
    return not is_fixed(value) or isinstance(value, int | float | complex | str | None)


def _registered(own: dict[str, Any], kind: str, name: str) -> Any:
    return own[kind].get(name)


def _item(where: Any, i: int) -> Any:
    return where[i] if isinstance(where, list | tuple) else list(where)[i]
