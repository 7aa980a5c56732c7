"""The formulas of the activations, written out: the reference is held to them."""

from collections.abc import Callable

import torch
from torch import Tensor


def _tanh(y: Tensor) -> Tensor:
    return (y.exp() - (-y).exp()) / (y.exp() + (-y).exp())


def _gate(y: Tensor) -> Tensor:
    a, b = y.chunk(2, dim=1)
    return _tanh(a) / (1 + (-b).exp())


def _glu(y: Tensor) -> Tensor:
    a, b = y.chunk(2, dim=1)
    return a / (1 + (-b).exp())


FORMULAS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda y: y,
    "relu": lambda y: torch.where(y > 0, y, 0),
    "elu": lambda y: torch.where(y > 0, y, y.exp() - 1),
    "tanh": _tanh,
    "gate": _gate,
    "glu": _glu,
    "sigmoid": lambda y: 1 / (1 + (-y).exp()),
    "softplus": lambda y: torch.log1p(y.exp()),
    "silu": lambda y: y / (1 + (-y).exp()),
    "gelu": lambda y: y * torch.special.erfc(-y / 2**0.5) / 2,
    "gelu_tanh": lambda y: y * (1 + _tanh((2 / torch.pi) ** 0.5 * (y + 0.044715 * y**3))) / 2,
}
