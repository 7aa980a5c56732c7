"""The specification: every op in plain PyTorch, its draws in `pixelcnn_draw`. Never optimised; no kernel imports it.

Shapes: B batch, C channels, H x W image, D dimensions of z. Signatures are those of every backend.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .flow_steps import step_by_step, steps_of
from .masks import conv_mask, linear_mask
from .pixelcnn_draw import draw
from .program import BERNOULLI, Emit, Plan, Stage


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


Layers = tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]]  # weights, biases, degrees (one more)


def made(x: Tensor, layers: Layers, cond: Tensor | None, activation: str) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """MADE: x ``[B, D]`` -> parameters ``[B, n_params * D]``, and every layer's input and pre-activation.

    ``cond`` ``[B, H]`` is added to the first layer's pre-activation.
    """
    inputs, pres = [x], []
    for i, (weight, bias) in enumerate(zip(layers[0], layers[1], strict=True)):
        pre = masked_linear(inputs[-1], weight, bias, layers[2][i], layers[2][i + 1], None, "none")
        pres.append(pre + cond if i == 0 and cond is not None else pre)
        inputs.append(activate(pres[-1], activation))
    return pres[-1], inputs[:-1], pres


LEAST_SLOPE = 1e-3  # of the transforms other than "exp"


def log_slope(raw: Tensor, scale: str) -> tuple[Tensor, Tensor]:
    """``log(d eps / d x)`` of a dimension with the scale's parameter ``raw``, and its derivative by raw."""
    if scale == "exp":
        return -raw, torch.full_like(raw, -1)
    if scale == "clipped_exp":
        divisor = 1 + raw.abs() / -math.log(LEAST_SLOPE)
        return raw / divisor, divisor**-2
    sigmoid = torch.sigmoid(raw if scale == "softplus" else raw + 2)
    slope, derivative = (F.softplus(raw), sigmoid) if scale == "softplus" else (sigmoid, sigmoid * (1 - sigmoid))
    return torch.log(slope + LEAST_SLOPE), derivative / (slope + LEAST_SLOPE)


def shift_and_log_scale(params: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The transform's parameters, ``[B, D]`` each: affine has both in 2 D columns, mean-only has D columns."""
    return (params[:, :dim], params[:, dim:]) if params.shape[1] > dim else (params, torch.zeros_like(params))


@step_by_step
def made_inverse(
    eps: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    degrees: Sequence[Tensor],
    cond: Tensor | None,
    activation: str,
    scale: str = "exp",
) -> tuple[Tensor, Tensor]:
    """The x with ``eps = transform(x; MADE(x))``, and ``log|det d eps/d x|`` ``[B]``.

    The transform is ``(x - shift) * slope`` for scale "exp" and ``shift + x * slope`` for the others, see `log_slope`.
    """
    x, log_det = torch.zeros_like(eps), eps.new_zeros(eps.shape[0])
    for _ in range(eps.shape[1]):  # pass n makes the dimensions of degree <= n right
        params, _, _ = made(x, (weights, biases, degrees), cond, activation)
        shift, raw = shift_and_log_scale(params, eps.shape[1])
        log, _ = log_slope(raw, scale)
        x = shift + torch.exp(-log) * eps if scale == "exp" else (eps - shift) * torch.exp(-log)
        log_det = log.sum(1)
    return x, log_det


def made_backward(
    grad: Tensor, layers: Layers, inputs: Sequence[Tensor], pres: Sequence[Tensor], activation: str
) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor]:
    """Gradients of x, weights, biases and the first pre-activation (that of cond) from that of the parameters."""
    weights, _, degrees = layers
    grad_weights, grad_biases = [], []
    for i, weight in reversed(list(enumerate(weights))):
        if i + 1 < len(weights):
            grad = activate_backward(grad, pres[i], activation)
        live = linear_mask(degrees[i], degrees[i + 1])
        grad_weights.append(torch.where(live, grad.T @ inputs[i], 0))
        grad_biases.append(grad.sum(0))
        grad_pre, grad = grad, grad @ torch.where(live, weight, 0)
    return grad, grad_weights[::-1], grad_biases[::-1], grad_pre


def made_inverse_backward(
    grad_xs: Tensor,
    grad_log_det: Tensor,
    xs: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    degrees: Sequence[Tensor],
    cond: Tensor | None,
    activation: str,
    scale: str = "exp",
) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
    """Gradients of eps, cond, weights, biases from those of every step's x, ``[S, B, D]``, and of log_det."""
    grad_conds: list[Tensor] = []
    grad_weights: list[Tensor] = []
    grad_biases: list[Tensor] = []
    grad_eps = torch.zeros_like(xs[0])  # of the step behind
    for s, step in reversed(list(enumerate(steps_of(weights, biases, degrees, cond)))):
        layers = (step.weights, step.biases, degrees)
        grad = grad_xs[s] + grad_eps.flip(1)
        grad_eps, grad_cond, of_weights, of_biases = _step_backward(
            grad, grad_log_det, xs[s], layers, step.cond, activation, scale
        )
        grad_conds.insert(0, grad_cond)
        grad_weights[:0], grad_biases[:0] = of_weights, of_biases
    return grad_eps, torch.cat(grad_conds, 1), grad_weights, grad_biases


def _step_backward(
    grad_x: Tensor,
    grad_log_det: Tensor,
    x: Tensor,
    layers: Layers,
    cond: Tensor | None,
    activation: str,
    scale: str,
) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
    """Gradients of eps, cond (``[B, H]``), weights, biases by the implicit function theorem.

    With ``J = d eps/d x = diag(slope) + N``, N nilpotent, the gradient of eps solves ``J^T v = g``:
    D steps of ``v = (g - N^T v) / slope`` are exact.
    """
    params, inputs, pres = made(x, layers, cond, activation)
    shift, raw = shift_and_log_scale(params, x.shape[1])
    log, d_log = log_slope(raw, scale)
    slope, affine = torch.exp(log), params.shape[1] > x.shape[1]
    d_shift = -slope if scale == "exp" else torch.ones_like(slope)  # of eps
    d_raw = d_log * slope * (x - shift if scale == "exp" else x)

    def backward(grad_shift: Tensor, grad_raw: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor]:
        grad = torch.cat([grad_shift, grad_raw], 1) if affine else grad_shift
        return made_backward(grad, layers, inputs, pres, activation)

    from_log_det = grad_log_det[:, None] * d_log
    target = grad_x + backward(torch.zeros_like(x), from_log_det)[0]
    v = torch.zeros_like(x)
    for _ in range(x.shape[1]):
        v = (target - backward(v * d_shift, v * d_raw)[0]) / slope
    _, grad_weights, grad_biases, grad_cond = backward(-v * d_shift, from_log_det - v * d_raw)
    return v, grad_cond, grad_weights, grad_biases


def shifted(x: Tensor, dy: int, dx: int) -> Tensor:
    """``out[..., i, j] = x[..., i + dy, j + dx]``, zero outside the image."""
    h, w = x.shape[-2:]
    ry, rx = abs(dy), abs(dx)
    return F.pad(x, (rx, rx, ry, ry))[..., ry + dy : ry + dy + h, rx + dx : rx + dx + w]


def run_program(stages: Sequence[Stage], weights: Sequence[Tensor], context: Tensor | None, image: Tensor) -> Tensor:
    """All stages of a sampling program on a whole image ``[B, C, H, W]``; returns the last buffer."""
    buffers, weights_left = [image], iter(weights)
    for stage in stages:
        pre: Tensor | float = 0.0
        for source in stage.sources:
            weight = next(weights_left)  # [P, C, taps]
            for t, (dy, dx) in enumerate(source.taps):
                pre = pre + torch.einsum("pc,bchw->bphw", weight[:, :, t], shifted(buffers[source.buffer], dy, dx))
        pre = pre + next(weights_left)[:, None, None]
        if stage.context_dim and context is not None:
            at = context if context.dim() == 4 else context[:, :, None, None]
            pre = pre + torch.einsum("pd,bdhw->bphw", next(weights_left), at)
        out = activate(pre, stage.activation)
        buffers.append(out if stage.residual < 0 else out + buffers[stage.residual])
    return buffers[-1]


def naive_sample(
    params_of: Callable[[Tensor], Tensor],
    noise: Tensor,
    channels: int,
    emit: Emit = BERNOULLI,
    known_mask: Tensor | None = None,
    known: Tensor | None = None,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Image ``[B, C, H, W]`` and parameters ``[B, P, H, W]``: one whole forward pass ``params_of(image)`` per pixel."""
    batch, _, height, width = noise.shape
    image = noise.new_zeros((batch, channels, height, width))
    params = noise.new_zeros((batch, emit.params(channels), height, width))
    for i in range(height):
        for j in range(width):
            params[:, :, i, j] = params_of(image)[:, :, i, j]
            given = (None if t is None else t[:, :, i, j] for t in (known_mask, known))
            image[:, :, i, j] = draw(params[:, :, i, j], noise[:, :, i, j], emit, temperature, *given)
    return image, params


def pixelcnn_pack(weights: Sequence[Tensor], plan: Plan) -> list[Tensor]:
    """`vlae_fast.ops.pixelcnn_pack`: the weights as they are."""
    return list(weights)


def pixelcnn_sample(
    noise: Tensor,
    packed: Sequence[Tensor],
    plan: Plan,
    context: Tensor | None,
    known_mask: Tensor | None,
    known: Tensor | None,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """`vlae_fast.ops.pixelcnn_sample`: the whole program once per pixel."""
    return naive_sample(
        lambda image: run_program(plan.stages, packed, context, image),
        noise,
        plan.image_channels,
        plan.emit,
        known_mask,
        known,
        temperature,
    )
