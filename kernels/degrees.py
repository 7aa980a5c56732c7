"""Degrees on a GPU are read once: their values, and plans made of them, are kept with their tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from vlae_fast.kept import kept, state_of
from vlae_fast.masks import check_made_degrees

T = TypeVar("T")


class Degrees:
    """Degrees of a layer on the host. Equal degrees are the same object, a cheap key, for as long as a tensor has them.

    ``plans`` of networks whose outputs have these degrees live as long: a CUDA graph may hold their addresses.
    """

    def __init__(self, values: tuple[int, ...]) -> None:
        self.values = values
        self.plans: dict[tuple, Any] = {}


_INTERNED: WeakValueDictionary[tuple[int, ...], Degrees] = WeakValueDictionary()
# A look at the values waits for the GPU, which must not happen in every call (nor in a CUDA graph): they are remembered
# for as long as the tensor lives and nobody writes to it.
_SEEN = WeakTensorKeyDictionary()


def degrees_of(tensor: Tensor) -> Degrees:
    def look() -> Degrees:
        values = tuple(tensor.tolist())
        return _INTERNED.setdefault(values, Degrees(values))

    if (state := state_of(tensor)) is None:
        return look()
    seen = _SEEN.get(tensor)
    if seen is None or seen[0] != state:
        seen = _SEEN[tensor] = (state, look())
    return seen[1]


def once(degrees: Sequence[Tensor], device: torch.device, key: tuple, make: Callable[[list[tuple[int, ...]]], T]) -> T:
    """``make(values)`` of the degrees of a MADE's inputs, hidden layers and outputs, made once for a device and a key.

    Raises:
        ValueError: the degrees of the inputs or the outputs break the rule of the op. On a GPU this is the first look.
    """
    seen = tuple(map(degrees_of, degrees))
    plans, key = seen[-1].plans, (*seen[:-1], device, *key)
    if key not in plans:
        ends = [torch.tensor(seen[i].values, dtype=torch.int64, device="cpu") for i in (0, -1)]
        check_made_degrees(ends[0], ends[1])
        plans[key] = kept(device, lambda: make([d.values for d in seen]))
    found: T = plans[key]
    return found
