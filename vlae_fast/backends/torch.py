"""PyTorch's own products, on any device, in any dtype: each unit of a MADE once, a product for a layer and degree.

For what no kernel runs: where the specification takes D passes of the network, this takes the work of one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import activations
from ..reference.arguments import Layers


def why_not() -> str | None:
    """It runs everywhere."""
    return None


def made_sample(noise: Tensor, layers: Layers, activation: str) -> tuple[Tensor, Tensor]:
    """A draw of bits: the input of a dimension is x itself."""
    wide, terms = noise.double(), []

    def draw(d: int, logits: Tensor) -> Tensor:
        x = (wide[:, d : d + 1] * (1 + torch.exp(-logits.double())) < 1).to(noise)
        terms.append(F.logsigmoid(torch.where(x > 0, logits, -logits)))
        return x

    ones = [1] * noise.shape[1]
    x = _walk(noise, layers, activation, (ones, ones), draw)
    return x, torch.cat(terms, 1).sum(1)


def made_sample_levels(
    noise: Tensor, layers: Layers, tables: Sequence[Tensor], activation: str
) -> tuple[Tensor, Tensor]:
    """A draw of levels: the inputs of a dimension are a row of its table."""
    x, wide, terms = torch.empty_like(noise, dtype=torch.int64), noise.double(), []

    def draw(d: int, logits: Tensor) -> Tensor:
        sums = torch.exp(logits.double() - logits.double().amax(1, keepdim=True)).cumsum(1)
        x[:, d] = (sums[:, :-1] <= wide[:, d : d + 1] * sums[:, -1:]).sum(1)
        terms.append(logits.log_softmax(1).gather(1, x[:, d : d + 1]))
        return tables[d][x[:, d]]

    counts = [table.shape[1] for table in tables], [len(table) for table in tables]
    _walk(noise, layers, activation, counts, draw)
    return x, torch.cat(terms, 1).sum(1)


def _walk(
    noise: Tensor,
    layers: Layers,
    activation: str,
    counts: tuple[Sequence[int], Sequence[int]],
    draw: Callable[[int, Tensor], Tensor],
) -> Tensor:
    """The inputs of the network ``[B, I]``, each computed by ``draw(dimension, logits)`` once its logits are known.

    counts: how many inputs, and logits, each dimension has. A unit of degree d reads the units of its layer's inputs
    whose degrees are at most d: with these sorted, a stretch from the first one on.
    """
    orders = [degrees.argsort(stable=True) for degrees in layers.degrees]
    sorted_degrees = [degrees.sort().values.cpu() for degrees in layers.degrees]
    weights = [w[rows][:, columns] for w, columns, rows in zip(layers.weights, orders, orders[1:], strict=False)]
    biases = [b[rows].expand(len(noise), -1) for b, rows in zip(layers.biases, orders[1:], strict=False)]
    if layers.cond is not None:
        biases[0] = biases[0] + layers.cond[:, orders[1]]
    values = [noise.new_empty(len(noise), len(order)) for order in orders[:-1]]
    first = torch.tensor(counts[0], device="cpu").cumsum(0) - torch.tensor(counts[0], device="cpu")
    dimension_of = {int(degree): d for d, degree in enumerate(layers.degrees[0].cpu()[first])}
    dim = len(dimension_of)
    hidden = {int(d) for degrees in sorted_degrees[1:-1] for d in degrees.unique() if d < dim}

    def pre(layer: int, degree: int) -> tuple[slice, Tensor]:
        """The place of a layer's units of a degree, and their pre-activation."""
        start, end = (int(torch.searchsorted(sorted_degrees[layer], degree, right=right)) for right in (False, True))
        seen = int(torch.searchsorted(sorted_degrees[layer - 1], degree, right=True))
        rows = slice(start, end)
        weight = weights[layer - 1][rows, :seen]
        return rows, torch.addmm(biases[layer - 1][:, rows], values[layer - 1][:, :seen], weight.T)

    module = activations.BY_NAME[activation].module
    assert module is not None
    activate = module()
    for degree in sorted(hidden | set(range(dim))):
        for layer in range(1, len(values)):
            rows, out = pre(layer, degree)
            values[layer][:, rows] = activate(out)
        if degree >= 0:
            d, (_, logits) = dimension_of[degree + 1], pre(len(values), degree)
            at = int(torch.searchsorted(sorted_degrees[0], degree + 1))
            values[0][:, at : at + counts[0][d]] = draw(d, logits)
    x = torch.empty_like(values[0])
    x[:, orders[0]] = values[0]
    return x
