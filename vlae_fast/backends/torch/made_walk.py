"""The units of a MADE in the order of their degrees, each computed once.

A unit of degree d reads the units of the layer before it whose degrees are at most d: with these sorted, a stretch from
the first one on. The degrees are cut into blocks. All that a block reads of those before it is one product a layer, so
that most of the work is in large products; what is left for each degree is small.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ...reference.arguments import Layers
from .activate import ACTIVATE

BLOCK = 32  # degrees


class Walk:
    """A pass of the network in the order of degrees.

    ``.values``: of the inputs, the hidden layers and the outputs, ``[units, B]``, sorted by degree. What belongs to a
    dimension lies side by side, in the order that it has in the network.

    Args:
        layers: of one MADE. activation: of its hidden layers. batch: B. n_dims: D.
    """

    def __init__(self, layers: Layers, activation: str, batch: int, n_dims: int) -> None:
        self._activate = ACTIVATE[activation]
        found = [degrees.sort(stable=True) for degrees in layers.degrees]
        self.input_order = found[0].indices  # of the sorted inputs
        orders = [None if own.values.equal(d) else own.indices for own, d in zip(found, layers.degrees, strict=True)]
        self._weights = [
            _taken(_taken(w, 0, rows), 1, columns)
            for w, columns, rows in zip(layers.weights, orders, orders[1:], strict=False)
        ]
        self._biases = [_taken(b, 0, rows)[:, None] for b, rows in zip(layers.biases, orders[1:], strict=True)]
        if layers.cond is not None:
            self._biases[0] = self._biases[0] + _taken(layers.cond, 1, orders[1]).T
        degrees = [own.values.cpu() for own in found]
        hidden = {int(d) for own in degrees[1:-1] for d in own.unique() if d < n_dims}
        self._steps = sorted(hidden | set(range(n_dims)))  # the degrees of units that are of use
        at_most = torch.tensor([self._steps[0] - 1, *self._steps], device="cpu")
        self._ends = [torch.searchsorted(own, at_most, right=True).tolist() for own in degrees]
        self._ends[1:] = [[0, *ends[1:]] for ends in self._ends[1:]]
        dims = torch.arange(n_dims + 1, device="cpu")
        self._inputs = torch.searchsorted(degrees[0], dims, right=True).tolist()  # of each dimension the first one
        self.values = [layers.weights[0].new_empty(len(own), batch) for own in degrees]

    def __iter__(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """For each degree d of a dimension: d, its outputs ``[O_d, B]``, and the inputs ``[I_d, B]`` to be written."""
        for first in range(0, len(self._steps), BLOCK):
            steps = range(first, min(first + BLOCK, len(self._steps)))
            # The input that a degree reads is drawn by the degree before it; a unit is computed in its own step.
            known = [ends[first + (layer == 0)] for layer, ends in enumerate(self._ends)]
            for layer in range(1, len(self.values)):
                self._add_before(
                    layer, slice(self._ends[layer][first], self._ends[layer][steps.stop]), known[layer - 1]
                )
            for step in steps:
                for layer in range(1, len(self.values)):
                    own = self._add_of_block(layer, step, known[layer - 1])
                degree = self._steps[step]
                if degree >= 0:
                    yield degree, own, self.values[0][self._inputs[degree] : self._inputs[degree + 1]]

    def _add_before(self, layer: int, rows: slice, known: int) -> None:
        """The part of a block's pre-activations that comes from units before it."""
        weight, before = self._weights[layer - 1][rows, :known], self.values[layer - 1][:known]
        torch.addmm(self._biases[layer - 1][rows], weight, before, out=self.values[layer][rows])

    def _add_of_block(self, layer: int, step: int, known: int) -> Tensor:
        """The rest of a step's pre-activations, and the activation."""
        start, end = self._ends[layer][step : step + 2]
        seen, own = self._ends[layer - 1][step + 1], self.values[layer][start:end]
        if start < end and known < seen:
            own.addmm_(self._weights[layer - 1][start:end, known:seen], self.values[layer - 1][known:seen])
        return own if layer == len(self.values) - 1 or start == end else self._activate(own, own)


def _taken(t: Tensor, dim: int, order: Tensor | None) -> Tensor:
    """t with the entries of a dimension in an order; None: as they are."""
    return t if order is None else t.index_select(dim, order)
