"""Formulas of the activations of `vlae_fast.activations`, and of their slopes."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def activate(x: Tensor, activation: str) -> Tensor:
    """The activation of a name: PyTorch's of that name with its default arguments, or one of these.

    gate: ``tanh(a) * sigmoid(b)``, glu: ``a * sigmoid(b)`` of the two halves of dimension 1. gelu: ``x Phi(x)``,
    gelu_tanh: ``x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3))``.

    Source of the two: Hendrycks and Gimpel 2016, arXiv 1606.08415.
    """
    if activation in ("gate", "glu"):
        a, b = x.chunk(2, dim=1)
        return (a.tanh() if activation == "gate" else a) * b.sigmoid()
    return _OF_ONE_VALUE[activation](x)


_OF_ONE_VALUE: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda v: v,
    "relu": F.relu,
    "elu": F.elu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda v: F.gelu(v, approximate="tanh"),
}


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
