"""The Triton kernels, for GPUs: imported on first use. Their absence is a reason to give, never an ImportError."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cache, lru_cache, wraps
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from ..flow_steps import step_by_step
from ..kept import kept
from ..masks import Tap, live_weights
from ..plan import Plan
from . import gpu
from .memory_format import contiguous, nchw, nhwc

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # Triton's interpreter runs the kernels, on the CPU: for tests


def devices() -> tuple[str, ...]:
    return ("cuda", "cpu") if INTERPRETED else ("cuda",)


@lru_cache
def why_not() -> str | None:
    """Why the kernels cannot run here; None where they can."""
    if find_spec("triton") is None:
        return "triton is not installed"
    return None if INTERPRETED else gpu.why_not()


def only_named(op: str) -> str | None:
    """Why ``auto`` passes the row over, for any op."""
    return "runs in Triton's interpreter, which is for tests: name it" if INTERPRETED else None


def detail() -> str:
    import triton

    return f": triton {triton.__version__}" + (", interpreted" if INTERPRETED else "")


@cache  # a captured graph knows the addresses of these tables
def _taps_and_centre(
    mask_type: str, weight_shape: tuple[int, ...], image_channels: int, device: torch.device
) -> tuple[tuple[Tap, ...], Tensor | None]:
    taps, mask = live_weights(mask_type, weight_shape, image_channels)
    if mask is None:
        return taps, None
    centre = mask[:, :, mask.shape[2] // 2, mask.shape[3] // 2].contiguous()
    return taps, kept(device, lambda: centre.to(device))


def _on_its_device(function: Callable[..., Any]) -> Callable[..., Any]:
    """Triton launches on the current device, which need not be that of the tensors."""

    @wraps(function)
    def run(first: Tensor, *args: Any, **options: Any) -> Any:
        with torch.cuda.device_of(first):
            return function(first, *args, **options)

    return run


def masked_conv_saves(activation: str) -> bool:
    """Whether `masked_conv_saving` keeps a tensor like its output. From that of the others the slope follows alone."""
    return activation == "gate"


@_on_its_device
def masked_conv_saving(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cond: Tensor | None,
    mask_type: str,
    image_channels: int,
    activation: str,
    *,
    save: bool = True,
) -> tuple[Tensor, Tensor]:
    """The output, and the sigmoid of the gate: with the output it gives the slope without a second convolution."""
    from ..kernels import masked_conv as kernels

    taps, centre = _taps_and_centre(mask_type, tuple(weight.shape), image_channels, weight.device)
    out, saved = kernels.forward(
        nhwc(x), weight, bias, nhwc(cond), taps, centre, activation, save and masked_conv_saves(activation)
    )
    return nchw(out), nchw(saved) if saved is not None else x.new_empty(0)


def masked_conv(*args: Any) -> Tensor:
    return masked_conv_saving(*args, save=False)[0]


@_on_its_device
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
    from ..kernels import masked_conv as kernels

    taps, centre = _taps_and_centre(mask_type, tuple(weight.shape), image_channels, weight.device)
    sigmoid = saved if masked_conv_saves(activation) else None
    grad_x, grad_weight, grad_bias, grad_cond = kernels.backward(
        nhwc(grad), nhwc(out), nhwc(sigmoid), nhwc(x), weight, taps, centre, activation, needs, cond
    )
    return [
        None if grad_x is None else nchw(grad_x),
        grad_weight,
        grad_bias,
        grad_cond if grad_cond is None or grad_cond.dim() == 2 else nchw(grad_cond),
    ]


def _mask(in_degrees: Tensor | None, out_degrees: Tensor | None, adjacency: Tensor | None) -> Any:
    from ..kernels.live_tiles import Mask

    return Mask(out_degrees, in_degrees) if adjacency is None else Mask(adjacency)


@_on_its_device
def masked_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    in_degrees: Tensor | None,
    out_degrees: Tensor | None,
    adjacency: Tensor | None,
    activation: str,
) -> Tensor:
    from ..kernels import masked_linear as kernels

    mask = _mask(in_degrees, out_degrees, adjacency)
    return kernels.forward(x.contiguous(), weight.contiguous(), contiguous(bias), mask, activation)


@_on_its_device
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
    from ..kernels import masked_linear_backward as kernels

    mask = _mask(in_degrees, out_degrees, adjacency)
    args = (grad.contiguous(), contiguous(y), x.contiguous(), weight.contiguous(), mask, activation)
    return kernels.backward(*args, needs)


@step_by_step
@_on_its_device
def made_inverse(
    eps: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    degrees: Sequence[Tensor],
    cond: Tensor | None,
    activation: str,
    scale: str = "exp",
) -> tuple[Tensor, Tensor]:
    from ..kernels import made_inverse as kernels

    return kernels.inverse(eps.contiguous(), weights, biases, degrees, contiguous(cond), activation, scale)


def pixelcnn_pack(weights: Sequence[Tensor], plan: Plan) -> list[Tensor]:
    """The program's weights as the tiles that the kernel reads, in its order."""
    from ..kernels import pixelcnn_sample as kernels

    return kernels.pack(weights, plan)


@_on_its_device
def pixelcnn_sample(
    noise: Tensor,
    packed: Sequence[Tensor],
    plan: Plan,
    context: Tensor | None,
    known_mask: Tensor | None,
    known: Tensor | None,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    from ..kernels import pixelcnn_sample as kernels

    return kernels.sample(
        noise.contiguous(), packed, plan, nhwc(context), contiguous(known_mask), contiguous(known), temperature
    )
