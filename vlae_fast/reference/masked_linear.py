"""Specification of `vlae_fast.ops.masked_linear`: a dense product with the masked weight, and its gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..masks import linear_mask
from .activation import activate, slope_of_output
from .arguments import Mask
from .linear import linear


def masked_linear(x: Tensor, weight: Tensor, bias: Tensor | None, mask: Mask, activation: str) -> Tensor:
    """`vlae_fast.ops.masked_linear`: a dense product with the masked weight."""
    return activate(linear(x, torch.where(_live(mask), weight, 0), bias), activation)


def masked_linear_backward(
    grad: Tensor,
    y: Tensor | None,
    x: Tensor,
    weight: Tensor,
    mask: Mask,
    activation: str,
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """Gradients of x, weight, bias; None where ``needs`` is False. ``y`` is the output; None without an activation."""
    live = _live(mask)
    if y is not None:
        grad = grad * slope_of_output(y, activation)
    return [
        linear(grad, torch.where(live, weight, 0).T) if needs[0] else None,
        torch.where(live, grad.T @ x, 0) if needs[1] else None,
        grad.sum(0) if needs[2] else None,
    ]


def _live(mask: Mask) -> Tensor:
    if mask.adjacency is not None:
        return mask.adjacency
    return linear_mask(mask.in_degrees, mask.out_degrees)  # type: ignore[arg-type]
