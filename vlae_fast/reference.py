"""The specification: every op in plain PyTorch. Never optimised; no kernel imports it.

Shapes: B batch, C channels, H x W image, D dimensions of z. Signatures are those of every backend.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .masks import conv_mask, linear_mask
from .program import Plan, Stage


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


def shift_and_log_scale(params: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The transform's parameters, ``[B, D]`` each: affine has both in 2 D columns, mean-only has D columns."""
    return (params[:, :dim], params[:, dim:]) if params.shape[1] > dim else (params, torch.zeros_like(params))


def made_inverse(
    eps: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    degrees: Sequence[Tensor],
    cond: Tensor | None,
    activation: str,
) -> tuple[Tensor, Tensor]:
    """The x with ``eps = (x - shift(x)) * exp(-log_scale(x))``, and ``log|det d eps/d x|`` ``[B]``."""
    x, log_det = torch.zeros_like(eps), eps.new_zeros(eps.shape[0])
    for _ in range(eps.shape[1]):  # pass n makes the dimensions of degree <= n right
        params, _, _ = made(x, (weights, biases, degrees), cond, activation)
        shift, log_scale = shift_and_log_scale(params, eps.shape[1])
        x, log_det = shift + torch.exp(log_scale) * eps, -log_scale.sum(1)
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
    grad_x: Tensor,
    grad_log_det: Tensor,
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    degrees: Sequence[Tensor],
    cond: Tensor | None,
    activation: str,
) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
    """Gradients of eps, cond (``[B, H]``), weights, biases by the implicit function theorem.

    With ``J = d eps/d x = diag(exp(-log_scale)) + N``, N nilpotent, the gradient of eps solves ``J^T v = g``:
    D steps of ``v = exp(log_scale) * (g - N^T v)`` are exact.
    """
    layers = (weights, biases, degrees)
    params, inputs, pres = made(x, layers, cond, activation)
    shift, log_scale = shift_and_log_scale(params, x.shape[1])
    eps, affine = (x - shift) * torch.exp(-log_scale), params.shape[1] > x.shape[1]

    def backward(grad_shift: Tensor, grad_log_scale: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor]:
        grad = torch.cat([grad_shift, grad_log_scale], 1) if affine else grad_shift
        return made_backward(grad, layers, inputs, pres, activation)

    from_log_det = -grad_log_det[:, None].expand_as(x)
    target = grad_x + backward(torch.zeros_like(x), from_log_det)[0]
    v = torch.zeros_like(x)
    for _ in range(x.shape[1]):
        v = torch.exp(log_scale) * (target - backward(-v * torch.exp(-log_scale), -v * eps)[0])
    _, grad_weights, grad_biases, grad_cond = backward(v * torch.exp(-log_scale), v * eps + from_log_det)
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


def draw_bernoulli(logits: Tensor, noise: Tensor, temperature: float) -> Tensor:
    """1 where ``noise < sigmoid(logits / temperature)``, compared in float64."""
    return (noise.double() < torch.sigmoid(logits.double() / temperature)).to(logits.dtype)


def naive_sample(
    logits_of: Callable[[Tensor], Tensor],
    noise: Tensor,
    known_mask: Tensor | None = None,
    known: Tensor | None = None,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Image and logits ``[B, C, H, W]`` by one whole forward pass ``logits_of(image)`` per pixel, in raster order."""
    image, logits = torch.zeros_like(noise), torch.zeros_like(noise)
    for i in range(noise.shape[2]):
        for j in range(noise.shape[3]):
            logits[:, :, i, j] = logits_of(image)[:, :, i, j]
            pixel = draw_bernoulli(logits[:, :, i, j], noise[:, :, i, j], temperature)
            if known_mask is not None and known is not None:
                pixel = torch.where(known_mask[:, :, i, j], known[:, :, i, j], pixel)
            image[:, :, i, j] = pixel
    return image, logits


def pixelcnn_pack(weights: Sequence[Tensor], plan: Plan) -> list[Tensor]:
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
    return naive_sample(
        lambda image: run_program(plan.stages, packed, context, image), noise, known_mask, known, temperature
    )
