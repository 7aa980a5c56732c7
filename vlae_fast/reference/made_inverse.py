"""Specification of `vlae_fast.ops.made_inverse`: D passes of a MADE, and gradients by the implicit function theorem."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .arguments import Layers, Transform
from .made import made, made_backward, made_with_hidden

LEAST_SLOPE = 1e-3  # of the transforms other than "exp"


def log_slope(raw: Tensor, scale: str) -> tuple[Tensor, Tensor]:
    """``log(d eps / d x)`` of a dimension with the scale's parameter ``raw``, and its derivative by raw."""
    if scale == "exp":
        return -raw, torch.full_like(raw, -1)
    if scale == "exp_slope":
        return raw, torch.ones_like(raw)
    if scale == "clipped_exp":
        divisor = 1 + raw.abs() / -math.log(LEAST_SLOPE)
        return raw / divisor, divisor**-2
    sigmoid = torch.sigmoid(raw if scale == "softplus" else raw + 2)
    slope, derivative = (F.softplus(raw), sigmoid) if scale == "softplus" else (sigmoid, sigmoid * (1 - sigmoid))
    return torch.log(slope + LEAST_SLOPE), derivative / (slope + LEAST_SLOPE)


def shift_and_log_scale(params: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The transform's parameters, ``[B, D]`` each: affine has both in 2 D columns, mean-only has D columns."""
    return (params[:, :dim], params[:, dim:]) if params.shape[1] > dim else (params, torch.zeros_like(params))


def made_inverse(eps: Tensor, layers: Layers, transform: Transform) -> tuple[Tensor, Tensor]:
    """The x ``[1, B, D]`` with ``eps = transform(x; MADE(x))`` of one step, and ``log|det d eps/d x|`` ``[B]``.

    The transform is ``(x - shift) * slope`` for scale "exp" and ``shift + x * slope`` for the others, see `log_slope`.
    """
    x, log_det = torch.zeros_like(eps), eps.new_zeros(eps.shape[0])
    for _ in range(eps.shape[1]):  # pass n makes the dimensions of degree <= n right
        params = made(x, layers, transform.activation)
        shift, raw = shift_and_log_scale(params, eps.shape[1])
        log, _ = log_slope(raw, transform.scale)
        x = shift + torch.exp(-log) * eps if transform.scale == "exp" else (eps - shift) * torch.exp(-log)
        log_det = log.sum(1)
    return x[None], log_det


def made_inverse_backward(
    grad_x: Tensor, grad_log_det: Tensor, x: Tensor, layers: Layers, transform: Transform
) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
    """Gradients of eps, cond (``[B, H]``), weights, biases of one step, by the implicit function theorem.

    With ``J = d eps/d x = diag(slope) + N``, N nilpotent, the gradient of eps solves ``J^T v = g``:
    D steps of ``v = (g - N^T v) / slope`` are exact.
    """
    params, *hidden = made_with_hidden(x, layers, transform.activation)
    n = len(layers.weights)
    shift, raw = shift_and_log_scale(params, x.shape[1])
    log, d_log = log_slope(raw, transform.scale)
    slope, affine = torch.exp(log), params.shape[1] > x.shape[1]
    exp = transform.scale == "exp"
    d_shift = -slope if exp else torch.ones_like(slope)  # of eps
    d_raw = d_log * slope * (x - shift if exp else x)

    def backward(grad_shift: Tensor, grad_raw: Tensor) -> list[Any]:
        grad = torch.cat([grad_shift, grad_raw], 1) if affine else grad_shift
        return made_backward(grad, x, hidden, layers, transform.activation, [True] * (2 + 2 * n))

    from_log_det = grad_log_det[:, None] * d_log
    target = grad_x + backward(torch.zeros_like(x), from_log_det)[0]
    v = torch.zeros_like(x)
    for _ in range(x.shape[1]):
        v = (target - backward(v * d_shift, v * d_raw)[0]) / slope
    _, grad_cond, *others = backward(-v * d_shift, from_log_det - v * d_raw)
    return v, grad_cond, others[:n], others[n:]
