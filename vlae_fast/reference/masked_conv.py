"""Specification of `vlae_fast.ops.masked_conv`: a dense convolution by the masked weight, and its gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..masks import Pair, same_padding
from .activation import activate, activate_backward
from .arguments import ConvOptions


def masked_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cond: Tensor | None,
    options: ConvOptions,
    context: Tensor | None = None,
    context_weight: Tensor | None = None,
) -> Tensor:
    """`vlae_fast.ops.masked_conv`: a dense convolution by the masked weight."""
    out = activate(_pre_activation(x, weight, bias, cond, options, context, context_weight), options.activation)
    return out + x if options.residual else out


def masked_conv_with_sigmoid(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cond: Tensor | None,
    options: ConvOptions,
    context: Tensor | None = None,
    context_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`masked_conv`, and what the backward of other backends reads: the sigmoid of the gate, and the output without its
    residual; empty where there is none or no need."""
    pre = _pre_activation(x, weight, bias, cond, options, context, context_weight)
    sigmoid = pre.chunk(2, 1)[1].sigmoid() if options.has_sigmoid else x.new_empty(0)
    activated = activate(pre, options.activation)
    if not options.residual:
        return activated, sigmoid, x.new_empty(0)
    return activated + x, sigmoid, activated if options.keeps_activated else x.new_empty(0)


def masked_conv_backward(
    grad: Tensor,
    out: Tensor | None,
    sigmoid: Tensor | None,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cond: Tensor | None,
    options: ConvOptions,
    needs: Sequence[bool],
    context: Tensor | None = None,
    context_weight: Tensor | None = None,
) -> list[Tensor | None]:
    """Gradients of x, weight, bias, cond, context, context_weight; None where ``needs`` is False.

    The pre-activation is computed again.
    """
    live, grad_out = options.mask(weight.shape, weight.device), grad
    if options.activation != "none":
        grad = activate_backward(
            grad, _pre_activation(x, weight, bias, cond, options, context, context_weight), options.activation
        )
    dilation = _dilation(x, options)
    padding = same_padding((weight.shape[2], weight.shape[3]), dilation)
    grad_x, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
        grad,
        x,
        torch.where(live, weight, 0),
        [weight.shape[0]],
        [1, 1],
        padding,
        dilation,
        False,
        [0, 0],
        1,
        list(needs[:3]),
    )
    grad_cond = None if cond is None or not needs[3] else grad.clone() if cond.dim() == 4 else grad.sum((2, 3))
    grad_context = grad_context_weight = None
    if context is not None and context_weight is not None:
        grad_context = F.conv2d(grad, context_weight.t()[:, :, None, None]) if needs[4] else None
        grad_context_weight = torch.einsum("bphw,bdhw->pd", grad, context) if needs[5] else None
    grad_weight = torch.where(live, grad_weight, 0) if needs[1] else None
    if options.residual and needs[0]:
        grad_x = grad_x + grad_out
    return [grad_x, grad_weight, grad_bias, grad_cond, grad_context, grad_context_weight]


def _pre_activation(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cond: Tensor | None,
    options: ConvOptions,
    context: Tensor | None,
    context_weight: Tensor | None,
) -> Tensor:
    dilation = _dilation(x, options)
    padding = same_padding((weight.shape[2], weight.shape[3]), dilation)
    live_weight = torch.where(options.mask(weight.shape, weight.device), weight, 0)
    pre = F.conv2d(x, live_weight, bias, padding=padding, dilation=dilation)
    if context is not None and context_weight is not None:
        pre = pre + F.conv2d(context, context_weight[:, :, None, None])
    if cond is None:
        return pre
    return pre + (cond if cond.dim() == 4 else cond[:, :, None, None])


def _dilation(x: Tensor, options: ConvOptions) -> Pair:
    """The dilation, at most the image's size: taps are outside of it then as they were, and no memory is theirs."""
    height, width = options.dilation
    return min(height, max(x.shape[2], 1)), min(width, max(x.shape[3], 1))
