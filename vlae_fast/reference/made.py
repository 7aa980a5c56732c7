"""Specification of `vlae_fast.ops.made`: masked linear layers one after the other, and their gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..masks import linear_mask
from .activation import activate, slope_of_output
from .arguments import Layers, Mask
from .linear import linear
from .masked_linear import masked_linear


def made(x: Tensor, layers: Layers, activation: str) -> Tensor:
    """`vlae_fast.ops.made`: the outputs of the last layer, ``[B, O]``."""
    return made_with_hidden(x, layers, activation)[0]


def made_with_hidden(x: Tensor, layers: Layers, activation: str) -> list[Tensor]:
    """The outputs of the last layer, then those of the hidden layers, ``[B, H]`` each, from the first one on."""
    outs, last = [x], len(layers.weights) - 1
    for i, (weight, bias) in enumerate(zip(layers.weights, layers.biases, strict=True)):
        pre = masked_linear(outs[-1], weight, bias, Mask(layers.degrees[i], layers.degrees[i + 1]), "none")
        pre = pre + layers.cond if i == 0 and layers.cond is not None else pre
        outs.append(pre if i == last else activate(pre, activation))
    return [outs[-1], *outs[1:-1]]


def made_backward(
    grad: Tensor, x: Tensor, hidden: Sequence[Tensor], layers: Layers, activation: str, needs: Sequence[bool]
) -> list[Tensor | None]:
    """Gradients of x, cond, the weights, the biases; None where ``needs``, in the same order, is False."""
    grad_weights, grad_biases, inputs = [], [], [x, *hidden]
    for i, weight in reversed(list(enumerate(layers.weights))):
        if i < len(hidden):
            grad = grad * slope_of_output(hidden[i], activation)
        live = linear_mask(layers.degrees[i], layers.degrees[i + 1])
        grad_weights.append(torch.where(live, grad.T @ inputs[i], 0))
        grad_biases.append(grad.sum(0))
        grad_cond, grad = grad, linear(grad, torch.where(live, weight, 0).T)
    grads = [grad, grad_cond.clone(), *grad_weights[::-1], *grad_biases[::-1]]
    return [g if need else None for g, need in zip(grads, needs, strict=True)]
