"""Contract of `pixelcnn_sample`: draw images from a program of stages, in the order of a schedule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import backends
from ..plan import Emit, Plan, check_temperature
from . import registry


def pixelcnn_pack(
    weights: Sequence[Tensor],
    plan: Plan,
    *,
    backend: str = "auto",
    isa: str | None = None,
    dtype: torch.dtype | None = None,
) -> list[Tensor]:
    """Packs the weights of a program in the order in which a backend reads them; done once per sampler.

    Args:
        weights: per stage, one ``[P, C, taps]`` per source (P channels of the pre-activation), then the bias ``[P]``,
            then V ``[P, D]`` where the stage has a context; of a norm gain ``[C]``, bias ``[C]``, eps ``[1]``.
        plan: the program and its schedule. backend: ``auto`` or a name of `vlae_fast.backends.report`.
        isa: instruction set of the backend ``cpu``; None: the best one of this machine.
        dtype: in which matrices and activations are held, see `docs/precision.md`; None: that of the weights, which is
            the one of noise, context, images and parameters.

    Raises:
        ValueError: a weight is NaN or infinite, or would be in `dtype`; there is an isa and the backend is not ``cpu``.
        RuntimeError: the named backend cannot run this.
    """
    for i, weight in enumerate(weights):
        if not torch.isfinite(weight).all():
            bad = int((~torch.isfinite(weight)).flatten().nonzero()[0])
            value = weight.flatten()[bad].item()
            raise ValueError(f"pixelcnn_pack: weights[{i}] must be finite, got {value} at index {bad}")
    row = backends.pick("pixelcnn_sample", weights[0], backend, plan, dtype)
    options: dict[str, Any] = {}
    if dtype is not None and dtype != weights[0].dtype:
        options["dtype"] = dtype
        if max(float(weight.abs().max()) for weight in weights if weight.numel()) > torch.finfo(dtype).max:
            raise ValueError(f"pixelcnn_pack: weights must be finite in {dtype}, got a larger one")
    if isa is not None and row.name != "cpu":
        raise ValueError(f"pixelcnn_pack: isa must be None for backend {row.name!r}, got {isa!r}")
    if isa is not None:
        options["isa"] = isa
    packed: list[Tensor] = row.namespace.pixelcnn_pack(list(weights), plan, **options)
    return packed


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
    """Draws images pixel by pixel, each pixel given those before it; the noise decides the result.

    Where the plan has a draw for each channel, a channel is drawn given those before it of its own pixel, too.

    Args:
        noise: ``[B, n, H, W]``, uniform in [0, 1) (standard normal for the affine emit), float32 (the backends torch
            and reference take any floating point). n, and P below, are those of `vlae_fast.plan.Emit`: C for
            Bernoulli pixels.
        packed: what `pixelcnn_pack` gave for the same plan and backend.
        context: ``[B, D]`` or ``[B, D, H, W]``, dtype of noise: what the stages with a context see (z of a VLAE).
        known_mask, known: boolean and values, both ``[B, C, H, W]``: pixels that are given instead of drawn.
        temperature: from 1e-100 to 1e100; logits are divided by it, scales multiplied.
        plan: the program and its schedule. backend: ``auto`` or a name of `vlae_fast.backends.report`.

    Returns:
        images ``[B, C, H, W]`` and the parameters ``[B, P, H, W]`` that they were drawn from, in float64, as
        `pixelcnn_draw.draw` does. Not differentiable.

    Raises:
        ValueError: an argument breaks a rule above; values are looked at on a CPU only (elsewhere: a synchronisation).
        RuntimeError: the named backend cannot run this.

    Equivalent to::

        for i, j in itertools.product(range(H), range(W)):
            params[:, :, i, j] = decoder(image, z)[:, :, i, j]
            image[:, :, i, j] = pixelcnn_draw.draw(params[:, :, i, j], noise[:, :, i, j], plan.emit, temperature)
    """
    _check(noise, plan, context, known_mask, known, temperature)
    return torch.ops.vlae_fast.pixelcnn_sample(
        noise, list(packed), plan.words, context, known_mask, known, temperature, backend
    )


def check_noise(op: str, noise: Tensor, channels: int, emit: Emit, temperature: float) -> None:
    """Raises ValueError unless noise is ``[B, n, H, W]``, on a CPU in its range, and the temperature in its own."""
    planes = emit.noises(channels)
    if noise.dim() != 4 or noise.shape[1] != planes or not noise.is_floating_point():
        raise ValueError(
            f"{op}: noise must be floating point [B, {planes}, H, W], got {noise.dtype} {tuple(noise.shape)}"
        )
    on_host = noise.device.type == "cpu"  # elsewhere the look would synchronise
    if emit.kind == "affine":
        if on_host and not torch.isfinite(noise).all():
            raise ValueError(f"{op}: noise must be finite, got nan or inf")
    elif on_host and noise.numel() and not (0 <= noise.min() and noise.max() < 1):  # false for NaN too
        raise ValueError(f"{op}: noise must be in [0, 1), got {noise[~((noise >= 0) & (noise < 1))][0].item()}")
    check_temperature(op, temperature)


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

    check_noise("pixelcnn_sample", noise, plan.image_channels, plan.emit, temperature)
    image = (noise.shape[0], plan.image_channels, *noise.shape[2:])
    if (known is None) != (known_mask is None):
        fail("known_mask and known must be given together", "one of them")
    if known is not None and known_mask is not None:
        if known_mask.dtype != torch.bool or known_mask.shape != image:
            fail(f"known_mask must be boolean {list(image)}", f"{known_mask.dtype} {tuple(known_mask.shape)}")
        if known.shape != image or known.dtype != noise.dtype:
            fail(f"known must be {noise.dtype} {list(image)}", f"{known.dtype} {tuple(known.shape)}")
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
        # a sum is finite only where all its terms are, and takes a fifth of the time of a look at each
        if context.device.type == "cpu" and not context.sum().isfinite() and not context.isfinite().all():
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
    plan = Plan.from_words(words)
    row = backends.pick("pixelcnn_sample", noise, backend, plan)
    images, params = row.namespace.pixelcnn_sample(
        noise.contiguous(), packed, plan, context, known_mask, known, temperature
    )
    return images, params


def _forward_fake(noise: Tensor, packed: list[Tensor], words: list[int], *args: Any) -> tuple[Tensor, Tensor]:
    plan, (batch, _, height, width) = Plan.from_words(words), noise.shape
    channels = (plan.image_channels, plan.emit.params(plan.image_channels))
    images, params = (noise.new_empty((batch, count, height, width)) for count in channels)
    return images, params


registry.define(
    "pixelcnn_sample(Tensor noise, Tensor[] packed, int[] words, Tensor? context, Tensor? known_mask, Tensor? known, "
    "float temperature, str backend) -> (Tensor, Tensor)",
    _forward,
    _forward_fake,
)
