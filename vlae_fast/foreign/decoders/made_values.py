"""The values of a traced MADE: what follows from one level each, and sums over the units of its layers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NoReturn

import torch
from torch import Tensor, fx

from ...ops.made_inverse import ACTIVATIONS
from .made_inputs import ROWS, Probes
from .made_units import Ended, Units, joined
from .writer import refuse


@dataclass(frozen=True, eq=False)
class Encoded:
    """A result that follows from each dimension's level alone, for all levels of the probes: batches of ROWS rows."""

    chunks: tuple[Any, ...]


class Values(fx.Interpreter):
    """What the operations of a MADE share: its layers, and how a value becomes a sum over their units.

    layers: the pre-activations of the hidden layers. tables: ``[K, E]`` and the dimensions ``[E]`` of layer 0.
    """

    layers: list[Units]
    activations: set[str]
    tables: list[tuple[Tensor, Tensor]]
    probes: Probes
    like: Tensor
    node: fx.Node
    _known: dict[int, tuple[Encoded, int, int]]
    _opened: dict[int, tuple[Units, Units]]  # sigmoids that are no ends, by what they are of

    def refuse(self, got: str) -> NoReturn:
        names = ", ".join((*ACTIVATIONS, "leaky_relu", "prelu"))
        refuse(self.node, f"linear layers and activations ({names}) in turn, where x is a vector", got)

    def _refuse_end(self, end: Ended) -> NoReturn:
        self.node = end.node
        self.refuse(f"{end.name} before the end")

    def _units(self, value: Any) -> Units:
        """Numbers that follow from levels, as inputs of the network."""
        if isinstance(value, Units):
            return value
        if isinstance(value, Ended):
            return self._open(value)
        if not isinstance(value, Encoded):
            return self._constant(value)
        whole = torch.cat(list(value.chunks))
        if not whole.is_floating_point():
            whole = whole.to(self.like)
        shape = tuple(whole.shape[1:])
        if id(value) not in self._known:
            start = sum(len(of) for _, of in self.tables)
            self.tables.append(self.probes.table(whole.flatten(1), self.refuse))
            self._known[id(value)] = (value, start, start + whole[0].numel())
        _, start, end = self._known[id(value)]
        return Units({0: _columns(self.like, start, end)}, self.like.new_zeros(end - start), shape)

    def _open(self, end: Ended) -> Units:
        """A sigmoid before the end: ``(1 + tanh(v / 2)) / 2``."""
        if end.name != "sigmoid":
            self._refuse_end(end)
        if id(end.value) not in self._opened:
            half = torch.full_like(end.value.bias, 0.5)
            opened = self._activate(end.value.times(half), "tanh").times(half).plus(half)
            self._opened[id(end.value)] = (end.value, opened)
        return self._opened[id(end.value)][1].rows(end.index).times(end.gain).plus(end.offset)

    def _constant(self, value: Any) -> Units:
        """A constant that is the same in every row of the batch."""
        row = value[0] if value.dim() and len(value) in (1, ROWS) else value
        if not value.equal(row.expand_as(value)):
            self.refuse("a constant that differs from row to row")
        row = row.to(self.like)
        return Units({}, row.flatten(), tuple(row.shape))

    def _activate(self, value: Units, name: str) -> Units:
        """Units of the layer behind the last one that a value reads; others of that layer may be known already."""
        layer = 1 + max(value.terms, default=0)
        own = replace(value, merged=False)
        if layer <= len(self.layers):
            start = len(self.layers[layer - 1].bias)
            self.layers[layer - 1] = joined([self.layers[layer - 1], own])
        else:
            start = 0
            self.layers.append(own)
        self.activations.add(name)
        count = len(value.bias)
        return Units(
            {layer: _columns(self.like, start, start + count)}, torch.zeros_like(value.bias), value.shape, value.merged
        )

    def _like(self, constant: Any, value: Units) -> Tensor:
        """A constant for each number of a value, ``[P]``."""
        if not isinstance(constant, Tensor):
            return torch.full_like(value.bias, constant)
        if constant.dim() == len(value.shape) + 1:
            constant = self._constant(constant.expand(ROWS, *constant.shape[1:])).bias.view(constant.shape[1:])
        return constant.to(value.bias).expand(value.shape).flatten()


def _columns(like: Tensor, start: int, end: int) -> Tensor:
    """``[end - start, end]``: an identity behind `start` columns of zeros."""
    out = like.new_zeros(end - start, end)
    out[:, start:] = torch.eye(end - start).to(like)
    return out
