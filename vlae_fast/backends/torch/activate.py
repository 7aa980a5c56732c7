"""Formulas of the activations of `vlae_fast.activations`, on rows that they may overwrite."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def _gate(pre: Tensor, out: Tensor | None) -> Tensor:
    a, b = pre.chunk(2, 1)
    return torch.mul(a.tanh_(), b.sigmoid_(), out=out)


def _glu(pre: Tensor, out: Tensor | None) -> Tensor:
    a, b = pre.chunk(2, 1)
    return torch.mul(a, b.sigmoid_(), out=out)


# Of the pre-activation ``[rows, P]``, and of where the result ``[rows, C]`` is wanted, which they may leave alone.
ACTIVATE: dict[str, Callable[[Tensor, Tensor | None], Tensor]] = {
    "none": lambda pre, out: pre,
    "relu": lambda pre, out: pre.relu_(),
    "elu": lambda pre, out: F.elu(pre, inplace=True),
    "gate": _gate,
    "tanh": lambda pre, out: pre.tanh_(),
    "sigmoid": lambda pre, out: pre.sigmoid_(),
    "softplus": lambda pre, out: F.softplus(pre),
    "silu": lambda pre, out: F.silu(pre, inplace=True),
    "gelu": lambda pre, out: F.gelu(pre),
    "gelu_tanh": lambda pre, out: F.gelu(pre, approximate="tanh"),
    "glu": _glu,
}
