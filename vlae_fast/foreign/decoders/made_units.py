"""Numbers of a traced MADE as sums over the units of its layers, and the network that they make: a chain of layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from ..flows.structure import order_of


@dataclass(frozen=True, eq=False)
class Units:
    """``bias + sum over layers of terms[layer] h_layer`` of the units h; layer 0 are the inputs.

    shape: of a row of the batch. terms: ``[P, units of the layer]``, bias: ``[P]``, P the product of the shape.
    merged: the first dimension of the shape is one with the batch, as a linear layer has it on ``[B, D, K]``.
    """

    terms: Mapping[int, Tensor]
    bias: Tensor
    shape: tuple[int, ...]
    merged: bool = False

    def rows(self, index: Tensor) -> Units:
        """The numbers of an index of any shape."""
        flat = index.flatten()
        return Units({m: w[flat] for m, w in self.terms.items()}, self.bias[flat], tuple(index.shape))

    def times(self, gain: Tensor) -> Units:
        return replace(self, terms={m: gain[:, None] * w for m, w in self.terms.items()}, bias=gain * self.bias)

    def plus(self, constant: Tensor) -> Units:
        return replace(self, bias=self.bias + constant)

    def product(self, matrix: Tensor) -> Units:
        """``matrix [Q, P]`` times it, of merged numbers times each ``[P]``."""
        count = self.shape[0] if self.merged else 1
        terms = {m: (matrix @ w.unflatten(0, (count, -1))).flatten(0, 1) for m, w in self.terms.items()}
        bias = (matrix @ self.bias.view(count, -1, 1)).flatten()
        return Units(terms, bias, (count, len(matrix)) if self.merged else (len(matrix),), self.merged)


def total(parts: Sequence[Units]) -> Units:
    """The sum of numbers of one shape."""
    terms: dict[int, Tensor] = {}
    for part in parts:
        for m, w in part.terms.items():
            terms[m] = _wide(terms[m], w) + _wide(w, terms[m]) if m in terms else w
    bias = torch.stack([part.bias for part in parts]).sum(0)
    return Units(terms, bias, parts[0].shape, parts[0].merged)


def joined(parts: Sequence[Units]) -> Units:
    """All numbers side by side, in a row."""
    terms: dict[int, Tensor] = {}
    for m in dict.fromkeys(m for part in parts for m in part.terms):
        like = max((part.terms[m] for part in parts if m in part.terms), key=lambda w: w.shape[1])
        blocks = [part.terms.get(m, like.new_zeros(len(part.bias), like.shape[1])) for part in parts]
        terms[m] = torch.cat([_wide(block, like) for block in blocks])
    bias = torch.cat([part.bias for part in parts])
    return Units(terms, bias, (len(bias),))


def _wide(weight: Tensor, other: Tensor) -> Tensor:
    """As wide as another: the inputs of a network grow while it is traced."""
    return F.pad(weight, (0, max(0, other.shape[1] - weight.shape[1])))


@dataclass(frozen=True, eq=False)
class Ended:
    """``gain function(value) + offset``: probabilities or log-probabilities, the end of a network.

    function: on ``[R, *shape]``. node: of the graph, which it comes from. groups: of a softmax, ``[Q]``: one number for
    those that sum to 1.
    """

    value: Units
    name: str
    function: Callable[[Tensor], Tensor]
    index: Tensor  # which of the function's numbers these are, of their shape
    gain: Tensor  # [P]
    offset: Tensor  # [P]
    node: fx.Node
    groups: Tensor | None = None

    def of(self, logits: Tensor) -> Tensor:
        """The numbers ``[R, P]`` for those of `value`, ``[R, Q]``."""
        whole = self.function(logits.view(-1, *self.value.shape)).flatten(1)
        return self.gain * whole[:, self.index.flatten()] + self.offset


def chained(layers: Sequence[Units], inputs: int) -> tuple[list[Tensor], list[Tensor], bool]:
    """Weights and biases of a network in which each layer reads the one before alone; whether it carries units.

    layers: the pre-activations of the hidden layers and the outputs. What a layer reads of earlier ones is carried
    through those between as ``relu(h)``, which is h where no unit is negative.
    """
    last = {m: n for n, layer in enumerate(layers, start=1) for m in layer.terms}
    places, width, carries = {0: slice(0, inputs)}, inputs, False
    weights, biases = [], []
    for n, layer in enumerate(layers, start=1):
        like, rows = layer.bias, []
        own = like.new_zeros(len(like), width)
        for m, w in layer.terms.items():
            own[:, places[m]][:, : w.shape[1]] = w
        rows.append(own)
        after, end = {n: slice(0, len(like))}, len(like)
        for m, place in places.items():
            if last.get(m, 0) > n:
                count, carries = place.stop - place.start, True
                rows.append(like.new_zeros(count, width))
                rows[-1][:, place] = torch.eye(count).to(like)
                after[m] = slice(end, end + count)
                end += count
        weights.append(torch.cat(rows))
        biases.append(torch.cat([like, like.new_zeros(end - len(like))]))
        places, width = after, end
    return weights, biases, carries


def degrees_of(weights: Sequence[Tensor], inputs_of: Tensor, outputs_of: Tensor) -> list[Tensor]:
    """Degrees under which no live weight is dead, of the inputs, the hidden layers and the outputs.

    inputs_of, outputs_of: the dimension of each.

    Raises:
        NotCoveredError: an output depends on its own dimension, or two on each other.
    """
    live, dim = [weight.cpu() != 0 for weight in weights], int(inputs_of.max()) + 1
    own = F.one_hot(inputs_of.cpu(), dim).float()
    seen = own
    for mask in live[:-1]:
        seen = ((mask.float() @ seen) > 0).float()
    by_output = torch.zeros(dim, live[-1].shape[1], device="cpu").index_add_(0, outputs_of.cpu(), live[-1].float())
    order = order_of((by_output @ seen) > 0)
    degrees = [order[inputs_of.cpu()]]
    for mask in live[:-1]:
        degrees.append(torch.where(mask, degrees[-1], 0).amax(1))
    return [*degrees, order[outputs_of.cpu()] - 1]
