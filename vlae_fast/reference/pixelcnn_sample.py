"""Specification of `vlae_fast.ops.pixelcnn_sample`: the whole program, once per pixel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..plan import BERNOULLI, Emit, Plan, Stage, computable
from .activation import activate
from .pixelcnn_draw import draw


def shifted(x: Tensor, dy: int, dx: int) -> Tensor:
    """``out[..., i, j] = x[..., i + dy, j + dx]``, zero outside the image."""
    h, w = x.shape[-2:]
    ry, rx = abs(dy), abs(dx)
    return F.pad(x, (rx, rx, ry, ry))[..., ry + dy : ry + dy + h, rx + dx : rx + dx + w]


def run_program(stages: Sequence[Stage], weights: Sequence[Tensor], context: Tensor | None, image: Tensor) -> Tensor:
    """All stages of a sampling program on a whole image ``[B, C, H, W]``; returns the last buffer."""
    return _run_stages(stages, weights, context, image)[len(stages)]


def run_plan(plan: Plan, weights: Sequence[Tensor], context: Tensor | None, image: Tensor) -> Tensor:
    """The parameters ``[B, P, H, W]`` that a plan draws from, given the whole image ``[B, C, H, W]``."""
    buffers = _run_stages(plan.stages, weights, context, image)
    if len(plan.all_draws) == 1:
        return buffers[plan.all_draws[0].buffer]
    channels = plan.image_channels
    params = image.new_empty(len(image), plan.emit.params(channels), *image.shape[2:])
    for channel, (_, buffer) in enumerate(plan.draws):
        params[:, plan.emit.params_of(channel, channels)] = buffers[buffer]
    return params


def _run_stages(
    stages: Sequence[Stage], weights: Sequence[Tensor], context: Tensor | None, image: Tensor
) -> dict[int, Tensor]:
    """All buffers. What a stage reads is held in the dtype of the matrices, all else is computed in the image's."""
    weights_left = iter(weights)
    own = [[next(weights_left) for _ in range(stage.n_weights)] for stage in stages]
    held = next(
        (own[s][0].dtype for s, stage in enumerate(stages) if stage.kind == "sum" and stage.sources), image.dtype
    )
    read = {0} | {m for stage in stages for m in (*(x.buffer for x in stage.sources), stage.residual, stage.factor)}
    buffers = {0: image.to(held).to(image.dtype)}
    context = None if context is None else context.to(held).to(image.dtype)
    for s in computable(stages):
        stage, at = stages[s], stages[s].sites.of
        if stage.kind == "norm":
            pre = _normalised(at(buffers[stage.sources[0].buffer]), *own[s])
        elif stage.kind == "attend":
            pre = _attended(stage, *(buffers[source.buffer] for source in stage.sources), *own[s])
        else:
            pre = _summed(stage, own[s], context, buffers)
        out = activate(pre, stage.activation)
        out = out if stage.factor < 0 else out * at(buffers[stage.factor])
        out = out if stage.residual < 0 else out + at(buffers[stage.residual])
        buffer = stage.writes(s)
        out = out.to(held).to(image.dtype) if buffer in read else out
        if buffer not in buffers:
            buffers[buffer] = out.new_zeros(*out.shape[:2], *image.shape[2:])
        at(buffers[buffer])[:] = out
    return buffers


def _summed(stage: Stage, weights: Sequence[Tensor], context: Tensor | None, buffers: Mapping[int, Tensor]) -> Tensor:
    """The pre-activation of a stage of kind sum."""
    pre: Tensor | float = 0.0
    for source, weight in zip(stage.sources, weights, strict=False):  # [P, C, taps]
        for t, (dy, dx) in enumerate(source.taps):
            read = stage.sites.of(shifted(buffers[source.buffer], dy, dx))
            pre = pre + torch.einsum("pc,bchw->bphw", weight[:, :, t].to(read.dtype), read)
    out: Tensor = pre + weights[len(stage.sources)][:, None, None]
    if stage.context_dim and context is not None:
        at = stage.sites.of(context) if context.dim() == 4 else context[:, :, None, None]
        out = out + torch.einsum("pd,bdhw->bphw", weights[-1].to(at.dtype), at)
    return out


def _normalised(h: Tensor, gain: Tensor, bias: Tensor, eps: Tensor) -> Tensor:
    """The pre-activation of a stage of kind norm."""
    centred = h - h.mean(1, keepdim=True)
    scale = (centred.square().mean(1, keepdim=True) + eps).rsqrt()
    return centred * scale * gain[:, None, None] + bias[:, None, None]


def _attended(stage: Stage, q: Tensor, k: Tensor, v: Tensor, scale: Tensor) -> Tensor:
    """The pre-activation of a stage of kind attend."""
    batch, _, height, width = q.shape
    q, k, v = (h.flatten(2).unflatten(1, (stage.heads, -1)).mT for h in (q, k, v))  # [B, heads, pixels, channels]
    seen = torch.ones(2 * [height * width], dtype=torch.bool, device=q.device).tril(stage.sources[1].taps[0][1])
    scores = (scale * (q @ k.mT)).masked_fill(~seen, -torch.inf)
    out = scores.softmax(3).masked_fill(~seen, 0) @ v  # the first pixel may see none
    return out.mT.reshape(batch, -1, height, width)


def naive_sample(
    params_of: Callable[[Tensor], Tensor],
    noise: Tensor,
    channels: int,
    emit: Emit = BERNOULLI,
    known_mask: Tensor | None = None,
    known: Tensor | None = None,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Image ``[B, C, H, W]`` and parameters ``[B, P, H, W]``: one whole forward pass ``params_of(image)`` per draw.

    A draw is a pixel's channel; of a mixture it is a pixel, whose channels come from one component.
    """
    batch, _, height, width = noise.shape
    image = noise.new_zeros((batch, channels, height, width))
    params = noise.new_zeros((batch, emit.params(channels), height, width))
    draws: list[tuple[slice, Any]] = [(slice(None), slice(None))]
    if emit.by_channel:
        draws = [(slice(c, c + 1), emit.params_of(c, channels)) for c in range(channels)]
    for i in range(height):
        for j in range(width):
            for c, own in draws:
                p = params_of(image)[:, own, i, j]
                given = (None if t is None else t[:, c, i, j] for t in (known_mask, known))
                noises = noise[:, c if emit.by_channel else slice(None), i, j]
                params[:, own, i, j] = p
                image[:, c, i, j] = draw(p, noises, emit, temperature, *given)
    return image, params


def pixelcnn_pack(weights: Sequence[Tensor], plan: Plan, dtype: torch.dtype | None = None) -> list[Tensor]:
    """`vlae_fast.ops.pixelcnn_pack`: the weights as they are, and the matrices in `dtype`."""
    return [w if dtype is None or w.dim() == 1 else w.to(dtype) for w in weights]


def pixelcnn_sample(
    noise: Tensor,
    packed: Sequence[Tensor],
    plan: Plan,
    context: Tensor | None,
    known_mask: Tensor | None,
    known: Tensor | None,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """`vlae_fast.ops.pixelcnn_sample`: the whole program once per draw."""
    return naive_sample(
        lambda image: run_plan(plan, packed, context, image),
        noise,
        plan.image_channels,
        plan.emit,
        known_mask,
        known,
        temperature,
    )
