"""Specification of `vlae_fast.ops.masked_linear`: a dense product with the masked weight, and its gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..masks import linear_mask
from .activation import activate


def masked_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    in_degrees: Tensor | None,
    out_degrees: Tensor | None,
    adjacency: Tensor | None,
    activation: str,
) -> Tensor:
    """`vlae_fast.ops.masked_linear`: a dense product with the masked weight."""
    live = adjacency if adjacency is not None else linear_mask(in_degrees, out_degrees)  # type: ignore[arg-type]
    return activate(F.linear(x, torch.where(live, weight, 0), bias), activation)


def masked_linear_backward(
    grad: Tensor,
    y: Tensor | None,
    x: Tensor,
    weight: Tensor,
    in_degrees: Tensor | None,
    out_degrees: Tensor | None,
    adjacency: Tensor | None,
    activation: str,
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """Gradients of x, weight, bias; None where ``needs`` is False. ``y`` is the output; None without an activation."""
    live = adjacency if adjacency is not None else linear_mask(in_degrees, out_degrees)  # type: ignore[arg-type]
    if y is not None:
        slope = {
            "relu": lambda v: (v > 0).to(v.dtype),
            "elu": lambda v: v.clamp(max=0) + 1,
            "tanh": lambda v: 1 - v * v,
        }
        grad = grad * slope[activation](y)
    return [
        grad @ torch.where(live, weight, 0) if needs[0] else None,
        torch.where(live, grad.T @ x, 0) if needs[1] else None,
        grad.sum(0) if needs[2] else None,
    ]
