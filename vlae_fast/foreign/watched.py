"""A replaced method whose module, or copy of it, is looked at in every call."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import nn
from torch.autograd import forward_ad

from .changes import difference
from .probe import ProbeError
from .swap import Swap
from .watch import Watch

W = TypeVar("W", bound="Watched")
_is_functorch_active = torch._C._are_functorch_transforms_active


class Watched(Swap):
    """Knows whether its module, or a copy of that which shares this record, is what it was when it was looked at."""

    methods: tuple[str, ...] = ("forward", "__call__")  # by whose code the module reads

    def __init__(self) -> None:
        self.owner: nn.Module | None = None  # the module that `watch` looks at
        self.watch: Watch | None = None
        self.stale: str | None = None  # the name of something that had changed before this was copied
        self.handles: list[Any] = []  # of hooks on the owner
        self.expected: dict[str, Any] | None = None  # the values that a copy should find

    def install(self, module: nn.Module) -> None:
        """Raises ProbeError where the module cannot be watched."""
        super().install(module)
        try:
            self.watch_anew(module)
        except ProbeError:
            self.remove(module)
            raise

    def watch_anew(self, module: nn.Module) -> None:
        self.owner, self.watch = module, Watch(module, self.methods)
        self.stale = self.expected = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy looks at what it is copied with when it runs; it must know whether that had changed before."""
        state = {**vars(self), "owner": None, "watch": None}
        if self.watch is not None:
            state["stale"], state["expected"] = self.watch.what_changed(), self.watch.summary()
        return state

    def look_at(self: W, module: nn.Module) -> tuple[W, str | None]:
        """The record of the module and what has changed since that was made."""
        if self.owner is module and self.watch is not None:
            return self, self.watch.what_changed()
        if vars(module).get("_is_replica"):  # of nn.DataParallel, made of the owner in this very call
            return self, self.stale if self.watch is None else self.watch.what_changed()
        try:
            watch = Watch(module, self.methods)
        except ProbeError as reason:
            return self, str(reason)
        if self.watch is None:  # a copy has been made of all, and is looked at for the first time
            changed = self.stale or difference(self.expected or {}, watch.summary())
            if not watch.is_fake():
                self.owner, self.watch, self.expected = module, watch, None
            return self, changed
        record = copy.copy(self)  # of the module nothing but its attributes was copied: it goes its own way from here
        record.owner, record.watch, record.expected = module, watch, None
        record.handles = []  # those are the owner's
        vars(module)["_vlae_fast"] = record
        return record, difference(self.watch.summary(), watch.summary())


def is_transformed() -> bool:
    """True where `torch.func` or forward-mode differentiation is at work, which the ops do not take part in."""
    return _is_functorch_active() or forward_ad._current_level >= 0
