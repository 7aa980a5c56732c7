"""The live tiles of a masked weight.

The masks of a model never change, and to find the tiles takes longer than a small layer's product. So they are kept
with the tensors that the mask is made of, and a call costs no launch for them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import ref

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from vlae_fast.kept import kept, state_of

Found = dict[Any, tuple[Any, Tensor]]  # {what: (versions of the tensors, it)}
_FOUND = WeakTensorKeyDictionary()  # tensor -> (tensor ->) Found; keeps no tensor alive
_BY_ID: dict[tuple[int, ...], tuple[list[ref], Found]] = {}  # the same: one look where _FOUND takes several


def _found(tensors: tuple[Tensor, ...]) -> Found:
    ids = tuple(map(id, tensors))
    refs, found = _BY_ID.get(ids, _NONE)
    if refs and refs[0]() is tensors[0] and refs[-1]() is tensors[-1]:  # an id may be given a second time
        return found

    def forget(_: object) -> None:
        _BY_ID.pop(ids, None)

    found = _searched(tensors)
    _BY_ID[ids] = [ref(tensor, forget) for tensor in tensors], found
    return found


_NONE: tuple[list[ref], Found] = ([], {})


def _searched(tensors: tuple[Tensor, ...]) -> Found:
    level: Any = _FOUND
    for i, tensor in enumerate(tensors):
        below = level.get(tensor)
        if below is None:
            below = level[tensor] = WeakTensorKeyDictionary() if i + 1 < len(tensors) else {}
        level = below
    return level


class Mask:
    """The mask of a layer, given by its degrees ``(out, in)`` or by its adjacency alone."""

    def __init__(self, *tensors: Tensor) -> None:
        self.tensors, self.is_adjacency = tensors, len(tensors) == 1
        self._versions = list(map(state_of, tensors))
        self._known = None not in self._versions
        if self._known:
            self._found = _found(tensors)

    def data(self) -> Tensor:
        """The table that kernels read: the adjacency, or ``[O + I]`` ranks, alive where ``rank[o] > rank[O + i]``."""
        return self.tensors[0].contiguous() if self.is_adjacency else self._once(_ranks)

    def walks(self, block_n: int, block_k: int, *, transposed: bool = False) -> Tensor:
        """The walk along K of each tile of N, ``[tiles of N, 3 + 2 * tiles of K]``, the longest walk first.

        A row has the tile of N, the number of runs of full tiles, the number of all runs, and the first and last + 1
        tile of each run, runs of full tiles first. Runs and no list: the kernels' inner loops then have no address to
        wait for. N are the outputs and K the inputs, or the other way round where ``transposed``.
        """
        return self._once(_walks, block_n, block_k, transposed)

    def tiles(self, block_o: int, block_i: int) -> Tensor:
        """Every tile of the weight, by rows, the live ones first; a dead one t is written ``-1 - t``."""
        return self._once(_tiles, block_o, block_i)

    def _once(self, build: Callable[..., Tensor], *args: Any) -> Tensor:
        """``build(tensors, *args)``, built once for as long as the tensors live and nobody writes to them."""
        if not self._known:
            return build(self.tensors, *args)
        versions, old = self._found.get((build, args), (None, None))
        if old is not None and versions == self._versions:
            return old
        built = kept(self.tensors[0].device, lambda: build(self.tensors, *args))
        if built.is_cuda and torch.cuda.is_current_stream_capturing():
            return built  # without values before the graph is replayed
        if old is not None:
            with torch.inference_mode(False):
                built = old.copy_(built)  # the same memory: a captured graph may know its address
        if built.is_cuda:
            torch.cuda.current_stream(built.device).synchronize()  # once: any stream may read it from now on
        self._found[build, args] = self._versions, built
        return built


def _dense(tensors: tuple[Tensor, ...]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else tensors[0][:, None] >= tensors[1][None, :]


def _ranks(degrees: tuple[Tensor, ...]) -> Tensor:
    """Ranks in place of degrees, in 32 bits: an output's rank is the number of inputs of at most its degree."""
    out_degrees, in_degrees = (d.long() for d in degrees)
    ordered = in_degrees.sort().values
    ranks = [torch.searchsorted(ordered, out_degrees, right=True), torch.searchsorted(ordered, in_degrees)]
    return torch.cat(ranks).int()


def _live_per_tile(mask: Tensor, block_n: int, block_k: int) -> Tensor:
    """Live entries of each tile, ``[tiles of N, tiles of K]``."""
    n, k = mask.shape
    whole = F.pad(mask, (0, -k % block_k, 0, -n % block_n))
    return whole.view(-(-n // block_n), block_n, -(-k // block_k), block_k).sum((1, 3))


def _walks(tensors: tuple[Tensor, ...], block_n: int, block_k: int, transposed: bool) -> Tensor:
    mask = _dense(tensors)
    mask = mask.T if transposed else mask
    live = _live_per_tile(mask, block_n, block_k)
    number, place = (torch.arange(size, device=mask.device) for size in live.shape)
    # a tile that reaches past the last k is not full, so the loop over the full ones has no bounds to look at
    full = live == (len(mask) - number[:, None] * block_n).clamp(max=block_n) * block_k
    kind = (live > 0).int() + full.int()
    starts = torch.ones_like(kind, dtype=torch.bool)
    starts[:, 1:] = kind[:, 1:] != kind[:, :-1]
    ends = F.pad(torch.where(starts, place, len(place)), (0, 1), value=len(place))[:, 1:]
    ends = ends.flip(1).cummin(1).values.flip(1)
    runs = kind * starts
    order = runs.argsort(dim=1, descending=True, stable=True)
    bounds = torch.stack([order, ends.gather(1, order)], 2).flatten(1)
    head = torch.stack([number, (runs == 2).sum(1), (runs > 0).sum(1)], 1)
    walks = torch.cat([head, bounds], 1).int()
    return walks[(kind > 0).sum(1).argsort(dim=0, descending=True, stable=True)]


def _tiles(tensors: tuple[Tensor, ...], block_o: int, block_i: int) -> Tensor:
    alive = _live_per_tile(_dense(tensors), block_o, block_i).flatten() > 0
    order = alive.int().argsort(dim=0, descending=True, stable=True)
    return torch.where(alive[order], order, -1 - order).int()
