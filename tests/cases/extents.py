"""Triton's interpreter with memory that is watched: a load or a store outside of a kernel's tensors is an error.

Kernels are given false addresses, those of two tensors 16 TiB apart: an offset that leaves its tensor lands in none,
and the address tells of which tensor the pointer was made. An access translates the addresses of its live lanes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vlae_fast.backends import triton

APART = 44  # log2 of the bytes from one tensor's address to the next one's
MIDDLE = 1 << APART - 1  # offsets may be negative


class Watched:
    """A tensor that a kernel was given: its bytes, and which of them are elements."""

    def __init__(self, name: str, tensor: Tensor) -> None:
        self.name, self.address, self.itemsize = name, tensor.data_ptr(), tensor.element_size()
        reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        self.span = reach + 1 if tensor.numel() else 0
        self.touched = np.zeros(self.span if self.span < 1 << 24 else 0, bool)  # elements that were loaded or stored
        self.elements: np.ndarray | None = None  # of the span, where it has gaps
        if tensor.numel() < self.span:
            self.elements = np.zeros(self.span, bool)
            torch.from_numpy(self.elements).as_strided(tensor.shape, tensor.stride()).fill_(True)

    def wrong(self, offsets: np.ndarray, itemsize: int) -> np.ndarray:
        """Which of these offsets in bytes are no element's."""
        index, rest = np.divmod(offsets, self.itemsize)
        outside = (index < 0) | (index >= self.span) | (rest != 0) | (itemsize != self.itemsize)
        if self.elements is not None:
            outside |= ~self.elements[np.where(outside, 0, index)]
        if len(self.touched):
            self.touched[index[~outside]] = True
        return outside


def _names(name: str, value: Any) -> list[str]:
    """Of the tensors of an argument, which may be a tuple of some."""
    if isinstance(value, tuple):
        return [n for i, one in enumerate(value) for n in _names(f"{name}[{i}]", one)]
    return [name] if isinstance(value, Tensor) else []


class Memory:
    """The tensors of one launch."""

    def __init__(self, kernel: str, names: Sequence[str]) -> None:
        self.kernel, self.names = kernel, iter(names)
        self.tensors: list[Watched] = []

    def __getitem__(self, name: str) -> Watched:
        return next(tensor for tensor in self.tensors if tensor.name == name)

    def place(self, tensor: Tensor) -> int:
        """The false address of the next tensor argument."""
        self.tensors.append(Watched(next(self.names), tensor))
        return (len(self.tensors) << APART) + MIDDLE

    def translate(self, what: str, addresses: np.ndarray, mask: np.ndarray, itemsize: int) -> np.ndarray:
        """The addresses with those of live lanes made real.

        Raises:
            IndexError: a live lane is outside of its tensor; names kernel, argument and offset in elements.
        """
        mask = np.broadcast_to(mask, addresses.shape)
        real, live = addresses.copy(), addresses[mask]
        found = live.copy()
        for place in np.unique(live >> np.uint64(APART)):
            here = live >> np.uint64(APART) == place
            if not 1 <= place <= len(self.tensors):
                raise IndexError(f"{self.kernel}: {what} at an address of no tensor")
            watched = self.tensors[int(place) - 1]
            offsets = live[here].astype(np.int64) - ((int(place) << APART) + MIDDLE)
            if (wrong := watched.wrong(offsets, itemsize)).any():
                raise IndexError(
                    f"{self.kernel}: {what} of {itemsize} bytes at element {offsets[wrong][0] / watched.itemsize:g} of "
                    f"{watched.name}, which has {watched.span} of {watched.itemsize}"
                )
            found[here] = (offsets + watched.address).astype(np.uint64)
        real[mask] = found
        return real


@contextmanager
def watched() -> Iterator[list[Memory]]:
    """Kernels that are interpreted in here have their loads and stores checked; gives the memory of every launch."""
    from triton.runtime import interpreter

    builder, executor = interpreter.InterpreterBuilder, interpreter.GridExecutor
    convert, launch = interpreter._implicit_cvt, executor.__call__
    load, store = builder.create_masked_load, builder.create_masked_store
    memory: list[Memory] = []
    ran: list[Memory] = []

    def launch_watched(self: Any, *args: Any, **options: Any) -> None:
        given = {name: value for name, value in options.items() if name in inspect.signature(self.fn).parameters}
        named = inspect.getcallargs(self.fn, *args, **given)
        memory.append(Memory(self.fn.__name__, [n for name, value in named.items() for n in _names(name, value)]))
        ran.append(memory[-1])
        try:
            if _choices:
                _launch_some(self, named, _choices[-1])
            else:
                launch(self, *args, **options)
        finally:
            memory.pop()

    def convert_watched(value: Any) -> Any:
        made = convert(value)
        if isinstance(value, Tensor):
            made.handle.data[:] = memory[-1].place(value)
        return made

    def load_watched(self: Any, pointers: Any, mask: Any, *options: Any) -> Any:
        itemsize = np.dtype(interpreter._get_np_dtype(pointers.get_element_ty())).itemsize
        real = memory[-1].translate("load", pointers.data, mask.data, itemsize)
        return load(self, interpreter.TensorHandle(real, pointers.dtype), mask, *options)

    def store_watched(self: Any, pointers: Any, value: Any, mask: Any, *options: Any) -> Any:
        real = memory[-1].translate("store", pointers.data, mask.data, value.data.itemsize)
        return store(self, interpreter.TensorHandle(real, pointers.dtype), value, mask, *options)

    def refuse(self: Any, *args: Any) -> None:
        raise NotImplementedError("atomics are not watched: add them to tests/cases/extents.py")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executor, "__call__", launch_watched)
        patch.setattr(interpreter, "_implicit_cvt", convert_watched)
        patch.setattr(builder, "create_masked_load", load_watched)
        patch.setattr(builder, "create_masked_store", store_watched)
        for name in ("create_atomic_cas", "create_atomic_rmw"):
            patch.setattr(builder, name, refuse)
        yield ran


@pytest.fixture(autouse=True)
def ran() -> Iterator[list[Memory]]:
    """Every kernel of a test, where it is interpreted, is watched; the launches."""
    if triton.INTERPRETED and triton.why_not() is None:
        with watched() as launches:
            yield launches
    else:
        yield []


Choice = Callable[[str, tuple[int, ...]], Iterable[tuple[int, ...]]]
_choices: list[Choice] = []


@contextmanager
def some_programs(chosen: Choice) -> Iterator[None]:
    """Of a grid that is watched only the programs ``chosen(kernel, grid)`` run; integers of 32 bits may not overflow.

    Tensors may then be larger than the machine's memory, where a file with holes is behind them: nothing is copied.
    """
    from triton.runtime.interpreter import interpreter_builder

    with pytest.MonkeyPatch.context() as patch:
        options = replace(interpreter_builder.options, debug=True, sanitize_overflow=True)
        patch.setattr(interpreter_builder, "options", options)
        _choices.append(chosen)
        try:
            yield
        finally:
            _choices.pop()


def _launch_some(executor: Any, named: dict[str, Any], chosen: Choice) -> None:
    from triton.runtime import interpreter

    scope = interpreter._patch_lang(executor.fn)
    try:
        args = {k: v if k in executor.constexprs else interpreter._implicit_cvt(v) for k, v in named.items()}
        grid = (*executor.grid, *(1,) * (3 - len(executor.grid)))
        interpreter.interpreter_builder.set_grid_dim(*grid)
        for program in chosen(executor.fn.__name__, grid):
            interpreter.interpreter_builder.set_grid_idx(*program)
            executor.fn(**args)
    finally:
        scope.restore()
