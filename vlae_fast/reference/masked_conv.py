"""Specification of `vlae_fast.ops.masked_conv`: a dense convolution by the masked weight, and its gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..masks import conv_mask
from .activation import activate, activate_backward


def masked_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cond: Tensor | None,
    mask_type: str,
    image_channels: int,
    activation: str,
) -> Tensor:
    """`vlae_fast.ops.masked_conv`: a dense convolution by the masked weight."""
    live = conv_mask(mask_type, weight.shape, image_channels=image_channels, device=weight.device)
    pre = F.conv2d(x, torch.where(live, weight, 0), bias, padding=(weight.shape[2] // 2, weight.shape[3] // 2))
    if cond is not None:
        pre = pre + (cond if cond.dim() == 4 else cond[:, :, None, None])
    return activate(pre, activation)


def masked_conv_saves(activation: str) -> bool:
    """Whether `masked_conv_saving` keeps a tensor like its output for the backward."""
    return False


def masked_conv_saving(*args: Any) -> tuple[Tensor, Tensor]:
    """`masked_conv`, and what its backward wants besides inputs and output: nothing, all is computed again."""
    return masked_conv(*args), args[0].new_empty(0)


def masked_conv_backward(
    grad: Tensor,
    out: Tensor | None,
    saved: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cond: Tensor | None,
    mask_type: str,
    image_channels: int,
    activation: str,
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """Gradients of x, weight, bias, cond; None where ``needs`` is False. The pre-activation is computed again."""
    live = conv_mask(mask_type, weight.shape, image_channels=image_channels, device=weight.device)
    live_weight = torch.where(live, weight, 0)
    if activation != "none":
        pre = masked_conv(x, weight, bias, cond, mask_type, image_channels, "none")
        grad = activate_backward(grad, pre, activation)
    padding = [weight.shape[2] // 2, weight.shape[3] // 2]
    grad_x, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
        grad, x, live_weight, [weight.shape[0]], [1, 1], padding, [1, 1], False, [0, 0], 1, list(needs[:3])
    )
    grad_cond = None if cond is None or not needs[3] else grad.clone() if cond.dim() == 4 else grad.sum((2, 3))
    return [grad_x, torch.where(live, grad_weight, 0) if needs[1] else None, grad_bias, grad_cond]
