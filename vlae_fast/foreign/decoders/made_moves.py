"""Operations of a traced MADE that move numbers about: views, slices, joins, permutations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_flatten, tree_map

from .made_inputs import ROWS
from .made_operations import Operations
from .made_units import Ended, Units, joined
from .made_values import Encoded
from .writer import MOVES, name_of

RESHAPED = ("view", "_unsafe_view", "reshape")
MOVED = {*MOVES, *"cat stack flip repeat roll narrow index index_select constant_pad_nd".split()}


class Moves(Operations):
    """An operation that moves numbers is done to their places."""

    def _moved(self, n: fx.Node, args: Any, kwargs: Any) -> Any:
        """An operation that moves numbers about, done to their places."""
        kinds = (Encoded, Units, Ended, *([Tensor] if name_of(n) in ("cat", "stack") else []))
        values: list[Any] = [a for a in tree_flatten(args)[0] if isinstance(a, kinds)]
        if any(isinstance(v, Ended) for v in values):
            return self._move_end(n, values, args, kwargs)
        parts = [self._units(v) for v in values]
        if name_of(n) in RESHAPED and (self._is_merged(args[1]) or parts[0].merged):
            return self._merge(parts[0], args[1])
        if any(part.merged for part in parts):
            self.refuse(f"{name_of(n)} of dimensions joined with the batch")
        start, places = 0, []
        for part in parts:
            index = torch.arange(start, start + len(part.bias), device="cpu").view(part.shape)
            places.append(index.expand(ROWS, *part.shape))
            start += len(part.bias)
        whole = joined(parts)
        return _map_rows(self._move(n, args, kwargs, places), whole.rows)

    @staticmethod
    def _is_merged(shape: Sequence[int]) -> bool:
        return shape[0] != ROWS and shape[0] > 0 and shape[0] % ROWS == 0

    def _merge(self, value: Units, shape: Sequence[int]) -> Units:
        """The first dimension behind the batch joined with it, or apart again."""
        merged = self._is_merged(shape)
        first = shape[0] // ROWS if merged else shape[1]
        own = torch.empty(len(value.bias), device="cpu").view(first, *shape[1 if merged else 2 :]).shape
        if not merged and shape[0] not in (ROWS, -1):
            self.refuse(f"a view to {list(shape)}")
        return replace(value, shape=tuple(own), merged=merged)

    def _move_end(self, n: fx.Node, ends: list[Any], args: Any, kwargs: Any) -> Any:
        counts = [
            v.index.numel() if isinstance(v, Ended) else v.numel() // len(v)
            for v in ends
            if isinstance(v, Ended | Tensor)
        ]
        if len(counts) < len(ends):
            self._refuse_end(next(v for v in ends if isinstance(v, Ended)))
        end = self._joined_ends(ends) if len(ends) > 1 else ends[0]
        start, places = 0, []
        for value, count in zip(ends, counts, strict=True):
            shape = value.index.shape if isinstance(value, Ended) else value.shape[1:]
            places.append(torch.arange(start, start + count, device="cpu").view(shape).expand(ROWS, *shape))
            start += count

        def moved(index: Tensor) -> Ended:
            flat = index.flatten()
            own = end.index.flatten()[flat].view(index.shape)
            return replace(end, index=own, gain=end.gain[flat], offset=end.offset[flat])

        return _map_rows(self._move(n, args, kwargs, places), moved)

    def _joined_ends(self, parts: Sequence[Any]) -> Ended:
        """Sigmoids and constants side by side."""
        values, gains, offsets = [], [], []
        for part in parts:
            if isinstance(part, Ended):
                if part.name != "sigmoid":
                    self._refuse_end(part)
                values.append(part.value.rows(part.index.flatten()))
                gains.append(part.gain)
                offsets.append(part.offset)
            else:
                constant = self._constant(part)
                values.append(constant.times(torch.zeros_like(constant.bias)))
                gains.append(torch.zeros_like(constant.bias))
                offsets.append(constant.bias)
        first = next(part for part in parts if isinstance(part, Ended))
        value = joined(values)
        index = torch.arange(len(value.bias), device="cpu")
        return replace(first, value=value, index=index, gain=torch.cat(gains), offset=torch.cat(offsets))

    def _move(self, n: fx.Node, args: Any, kwargs: Any, places: Sequence[Tensor]) -> Any:
        left, kinds = iter(places), (Encoded, Units, Ended, *([Tensor] if len(places) > 1 else []))
        own = tree_map(lambda a: next(left) if isinstance(a, kinds) else a, args)
        out = n.target(*own, **kwargs)  # type: ignore[operator]
        for part in out if isinstance(out, list | tuple) else [out]:
            if part.dim() == 0 or len(part) != ROWS or not part.equal(part[:1].expand_as(part)):
                self.refuse(f"{name_of(n)} that mixes rows")
        return out


def _map_rows(out: Any, function: Callable[[Tensor], Any]) -> Any:
    return [function(part[0]) for part in out] if isinstance(out, list | tuple) else function(out[0])
