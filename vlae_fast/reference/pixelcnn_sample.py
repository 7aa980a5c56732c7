"""Specification of `vlae_fast.ops.pixelcnn_sample`: the whole program, once per pixel."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..plan import BERNOULLI, Emit, Plan, Stage
from .activation import activate
from .pixelcnn_draw import draw


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
