"""Formulas of the activations of `vlae_fast.activations`, and of their slopes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def activate(x: Tensor, activation: str) -> Tensor:
    """none, relu, elu (alpha 1), tanh, or gate: ``tanh(a) * sigmoid(b)`` of the two halves of dimension 1."""
    if activation == "gate":
        a, b = x.chunk(2, dim=1)
        return a.tanh() * b.sigmoid()
    return {"none": lambda v: v, "relu": F.relu, "elu": F.elu, "tanh": torch.tanh}[activation](x)


def activate_backward(grad: Tensor, pre: Tensor, activation: str) -> Tensor:
    """Gradient of the pre-activation ``pre`` from the gradient of the activation's output."""
    if activation == "gate":
        a, b = pre.chunk(2, dim=1)
        tanh, sigmoid = a.tanh(), b.sigmoid()
        return torch.cat([grad * sigmoid * (1 - tanh * tanh), grad * tanh * sigmoid * (1 - sigmoid)], dim=1)
    slope = {
        "none": lambda v: torch.ones_like(v),
        "relu": lambda v: (v > 0).to(v.dtype),
        "elu": lambda v: v.clamp(max=0).exp(),
        "tanh": lambda v: 1 - v.tanh() ** 2,
    }
    return grad * slope[activation](pre)


def slope_of_output(out: Tensor, activation: str) -> Tensor:
    """The slope where the output is ``out``, for the activations with ``slope_of_output`` in the table."""
    slope = {
        "none": lambda v: torch.ones_like(v),
        "relu": lambda v: (v > 0).to(v.dtype),
        "elu": lambda v: v.clamp(max=0) + 1,
        "tanh": lambda v: 1 - v * v,
    }
    return slope[activation](out)
