"""Contract of `pixelcnn_sample`: draw images from a program of stages, in the order of a schedule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import backends
from ..program import Plan
from . import registry


def pixelcnn_pack(weights: Sequence[Tensor], plan: Plan, *, backend: str = "auto") -> list[Tensor]:
    """Weights of a program in the layout of a backend; done once per sampler.

    Args:
        weights: per stage, one ``[P, C, taps]`` per source (P channels of the pre-activation), then the bias ``[P]``,
            then V ``[P, D]`` where the stage has a context.

    Raises:
        ValueError: a weight is NaN or infinite; RuntimeError: the named backend cannot run this.
    """
    for i, weight in enumerate(weights):
        if not torch.isfinite(weight).all():
            bad = int((~torch.isfinite(weight)).flatten().nonzero()[0])
            value = weight.flatten()[bad].item()
            raise ValueError(f"pixelcnn_pack: weights[{i}] must be finite, got {value} at index {bad}")
    row = backends.pick("pixelcnn_sample", weights[0], backend)
    return row.namespace.pixelcnn_pack(list(weights), plan)


def pixelcnn_sample(
    noise: Tensor,
    packed: Sequence[Tensor],
    plan: Plan,
    context: Tensor | None = None,
    known_mask: Tensor | None = None,
    known: Tensor | None = None,
    *,
    temperature: float = 1.0,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Images drawn pixel by pixel, each from the ones before it; given the noise the result is a function.

    Args:
        noise: ``[B, C, H, W]``, uniform in [0, 1), float32 (the reference takes any floating point).
        packed: what `pixelcnn_pack` gave for the same plan and backend.
        context: ``[B, D]`` or ``[B, D, H, W]``, dtype of noise: what the stages with a context see (z of a VLAE).
        known_mask, known: boolean and values, both ``[B, C, H, W]``: pixels that are given instead of drawn.
        temperature: positive; the logits are divided by it.

    Returns:
        images and the logits they were drawn from, ``[B, C, H, W]``: 1 where ``noise < sigmoid(logits / temperature)``,
        compared in float64, else 0. Not differentiable.

    Raises:
        ValueError: an argument breaks a rule above; values are looked at on a CPU only (elsewhere: a synchronisation).
        RuntimeError: the named backend cannot run this.

    Equivalent to::

        for i, j in itertools.product(range(H), range(W)):
            logits[:, :, i, j] = decoder(image, z)[:, :, i, j]
            image[:, :, i, j] = (noise[:, :, i, j] < (logits[:, :, i, j] / temperature).sigmoid()).float()
    """
    _check(noise, plan, context, known_mask, known, temperature)
    return torch.ops.vlae_fast.pixelcnn_sample(
        noise, list(packed), plan.words, context, known_mask, known, temperature, backend
    )


def check_noise(op: str, noise: Tensor, channels: int, temperature: float) -> None:
    """Raises ValueError unless noise is ``[B, channels, H, W]``, on a CPU in [0, 1), and the temperature positive."""
    if noise.dim() != 4 or noise.shape[1] != channels or not noise.is_floating_point():
        raise ValueError(
            f"{op}: noise must be floating point [B, {channels}, H, W], got {noise.dtype} {tuple(noise.shape)}"
        )
    on_host = noise.device.type == "cpu"  # elsewhere the look would synchronise
    if on_host and noise.numel() and not (0 <= noise.min() and noise.max() < 1):  # false for NaN too
        raise ValueError(f"{op}: noise must be in [0, 1), got {noise[~((noise >= 0) & (noise < 1))][0].item()}")
    if not 0 < temperature < float("inf"):
        raise ValueError(f"{op}: temperature must be positive and finite, got {temperature}")


def _check(
    noise: Tensor,
    plan: Plan,
    context: Tensor | None,
    known_mask: Tensor | None,
    known: Tensor | None,
    temperature: float,
) -> None:
    def fail(rule: str, got: object) -> None:
        raise ValueError(f"pixelcnn_sample: {rule}, got {got}")

    check_noise("pixelcnn_sample", noise, plan.image_channels, temperature)
    if (known is None) != (known_mask is None):
        fail("known_mask and known must be given together", "one of them")
    if known is not None and known_mask is not None:
        if known_mask.dtype != torch.bool or known_mask.shape != noise.shape:
            fail(f"known_mask must be boolean {list(noise.shape)}", f"{known_mask.dtype} {tuple(known_mask.shape)}")
        if known.shape != noise.shape or known.dtype != noise.dtype:
            fail(f"known must be {noise.dtype} {list(noise.shape)}", f"{known.dtype} {tuple(known.shape)}")
    dims = {s.context_dim for s in plan.stages if s.context_dim}
    if len(dims) > 1:
        fail("plan must have one context_dim", sorted(dims))
    if (context is None) != (not dims):
        fail(f"context must be {'given' if dims else 'None'}", "None" if context is None else tuple(context.shape))
    if context is not None:
        shape = (noise.shape[0], *dims)
        if context.shape not in (shape, (*shape, *noise.shape[2:])) or context.dtype != noise.dtype:
            rule = f"context must be {noise.dtype} {list(shape)} or {[*shape, *noise.shape[2:]]}"
            fail(rule, f"{context.dtype} {tuple(context.shape)}")
        if context.device.type == "cpu" and not torch.isfinite(context).all():
            fail("context must be finite", "nan or inf")


def _forward(
    noise: Tensor,
    packed: list[Tensor],
    words: list[int],
    context: Tensor | None,
    known_mask: Tensor | None,
    known: Tensor | None,
    temperature: float,
    backend: str,
) -> tuple[Tensor, Tensor]:
    row = backends.pick("pixelcnn_sample", noise, backend)
    plan = Plan.from_words(words)
    images, logits = row.namespace.pixelcnn_sample(
        noise.contiguous(), packed, plan, context, known_mask, known, temperature
    )
    return images, logits


def _forward_fake(noise: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    return noise.new_empty(noise.shape), noise.new_empty(noise.shape)


registry.define(
    "pixelcnn_sample(Tensor noise, Tensor[] packed, int[] words, Tensor? context, Tensor? known_mask, Tensor? known, "
    "float temperature, str backend) -> (Tensor, Tensor)",
    _forward,
    _forward_fake,
)
