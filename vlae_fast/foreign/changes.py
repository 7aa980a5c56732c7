"""Places that somebody else's module reads, and what was there when they were looked at."""

from __future__ import annotations

import ctypes
import operator
import sys
from collections.abc import Callable, Sequence
from types import CellType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from ..kept import state_of

_libc: Any = ctypes.cdll.msvcrt if sys.platform == "win32" else ctypes.PyDLL(None)  # kept locked: a call takes 0.4 us
_memcmp = _libc.memcmp
_memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
_BLOCK = 1 << 16  # bytes that are compared in a call; measured: 0.4 us for 1 KiB, 1 us for all of it


class Kept:
    """A tensor that a layer computes with beside its weights, as it was when it was last looked at.

    Writes to ``tensor.data`` or by NumPy leave no trace but the values. On the CPU these are compared: all of a mask of
    up to 64 KiB in each call, larger ones a block in turn. Elsewhere a comparison would wait for the device.
    """

    def __init__(self, read: Callable[[], Any], name: str) -> None:
        self.read, self.name = read, name
        self.source = read()
        self.tensor = self.source if isinstance(self.source, Tensor) else torch.from_numpy(self.source)
        self.values = self.tensor.detach().clone()
        self._look()

    def _look(self) -> None:
        now = self.tensor
        self.state, self.at = state_of(now), 0
        self.readable = now.device.type == "cpu" and type(now) in (Tensor, nn.Parameter)
        # the elements of a copy with the same strides lie in the same order, without a gap
        in_order = self.readable and now.stride() == self.values.stride() and now.dtype == self.values.dtype
        self.bytes = self.values.nbytes if in_order else 0
        self.from_, self.to = (now.data_ptr(), self.values.data_ptr()) if in_order else (0, 0)

    @property
    def is_fake(self) -> bool:
        return _is_fake(self.tensor)

    def has_changed(self) -> bool:
        """True where the values are others: they are compared where the tensor is another, or was written to."""
        now = self.read()
        if now is self.source:
            if self.state is not None and state_of(self.tensor) == self.state:
                if not self.readable:
                    return False
                at = self.at  # read once: another thread may set it
                size = min(self.bytes - at, _BLOCK)
                if size and _memcmp(self.from_ + at, self.to + at, size) == 0:
                    self.at = (at + size) % self.bytes
                    return False
        same = self.has(now)
        if same and not _is_fake(now):
            self.source = now
            self.tensor = now if isinstance(now, Tensor) else self.tensor
            if self.tensor.dtype != self.values.dtype or self.tensor.device != self.values.device:
                self.values = self.tensor.detach().clone()
            self._look()
        return not same

    def has(self, other: Any) -> bool:
        """True where another tensor has the same values; a fake tensor, which has none, is taken to have them."""
        if not isinstance(other, Tensor):
            return other is self.source and torch.equal(self.tensor, self.values)
        if _is_fake(other) or self.values.is_meta:
            return True
        with _disable_current_modes():  # a tracer would take the comparison for a part of the model
            return other.shape == self.values.shape and torch.equal(other, self.values.to(other))


def _is_fake(tensor: Any) -> bool:
    return isinstance(tensor, Tensor) and (tensor.is_meta or type(tensor) not in (Tensor, nn.Parameter))


class Names(NamedTuple):
    """The values of some names of a dict, or of a class: read and compared in one go, in about 0.15 us."""

    where: Any
    get: Callable[[Any], tuple[Any, ...]]
    values: tuple[Any, ...]
    size: int | None  # None: others come and go

    @classmethod
    def of(cls, where: Any, names: Sequence[Any], grows: bool = False) -> Names:
        get: Any = operator.itemgetter(*names, names[0]) if names else _nothing
        return cls(where, get, get(where), None if grows else len(where))

    def has_changed(self) -> bool:
        return self.get(self.where) != self.values or (self.size is not None and len(self.where) != self.size)


def _nothing(_: Any) -> tuple[()]:
    return ()


class Items(NamedTuple):
    """A list or a set, and its items."""

    where: Any
    values: list[Any]

    def has_changed(self) -> bool:
        return len(self.where) != len(self.values) or not all(map(operator.is_, self.where, self.values))


class Variable(NamedTuple):
    """A variable that a function shares with the one that made it, and its value."""

    where: CellType
    value: Any

    def has_changed(self) -> bool:
        return self.where.cell_contents is not self.value


def difference(was: dict[str, tuple[str, Any]], now: dict[str, tuple[str, Any]]) -> str | None:
    """What differs between two summaries, by its name; None where nothing does."""
    for path in [*was, *now]:
        (shown, a), (instead, b) = was.get(path, ("", Kept)), now.get(path, ("", Kept))
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            with _disable_current_modes():
                equal = b.is_meta or a.is_meta or (a.shape == b.shape and a.equal(b.to(a)))
        else:
            equal = same(a, b)
        if not equal:
            return shown or instead
    return None


def same(was: Any, now: Any) -> bool:
    """Whether a value is that which was there before, or equal to it."""
    try:
        return was is now or (type(was) is type(now) and bool(was == now))
    except Exception:  # other people's ==
        return False
