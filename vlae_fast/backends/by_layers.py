"""`made` of a backend that has no kernel for a whole network: its `masked_linear`, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..reference.activation import activate, slope_of_output
from ..reference.arguments import Layers, Mask


def made_with_hidden(namespace: Any, x: Tensor, layers: Layers, activation: str) -> list[Tensor]:
    """The outputs, then those of the hidden layers, by ``namespace.masked_linear``."""
    outs, last = [x], len(layers.weights) - 1
    for i, (weight, bias) in enumerate(zip(layers.weights, layers.biases, strict=True)):
        own, waits = "none" if i == last else activation, i == 0 and layers.cond is not None
        y = namespace.masked_linear(outs[-1], weight, bias, _mask(layers, i), "none" if waits else own)
        outs.append(activate(y + layers.cond, own) if waits else y)
    return [outs[-1], *outs[1:-1]]


def made_backward(
    namespace: Any,
    grad: Tensor,
    x: Tensor,
    hidden: Sequence[Tensor],
    layers: Layers,
    activation: str,
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """Gradients of x, cond, the weights, the biases where needed, by ``namespace.masked_linear_backward``."""
    n = len(layers.weights)
    grads: list[Tensor | None] = [None] * len(needs)
    wanted = [any(needs[:2])]  # of what lies before a layer, is a gradient wanted?
    for i in range(n):
        wanted.append(wanted[-1] or needs[2 + i] or needs[2 + n + i])
    for i in reversed(range(n)):
        out, own = (hidden[i], activation) if i < n - 1 else (None, "none")
        if i == 0 and needs[1]:  # the gradient of cond is that of the pre-activation
            grad = grad if out is None else grad * slope_of_output(out, own)
            grads[1], out, own = grad.clone(), None, "none"
        own_needs = (wanted[i] if i else needs[0], needs[2 + i], needs[2 + n + i])
        before = hidden[i - 1] if i else x
        found = namespace.masked_linear_backward(grad, out, before, layers.weights[i], _mask(layers, i), own, own_needs)
        grads[2 + i], grads[2 + n + i] = found[1:]
        if i == 0:
            grads[0] = found[0]
        elif not wanted[i]:
            break
        grad = found[0]
    return grads


def _mask(layers: Layers, i: int) -> Mask:
    return Mask(layers.degrees[i], layers.degrees[i + 1])
