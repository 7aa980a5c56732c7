"""The Triton kernels, for GPUs: imported on first use. Their absence is a reason to give, never an ImportError."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import cache, lru_cache, wraps
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kept import kept, planned
from ..masks import tap_at
from ..plan import Plan
from ..reference.arguments import ConvOptions, Layers, Mask, Transform
from . import by_layers, gpu
from .memory_format import contiguous, in_channels_last, nhwc

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


def lacks(plan: Plan, like: Tensor | None) -> str | None:
    """The part of a plan that the kernel has not, or None."""
    missing = [stage.kind for stage in plan.stages if stage.kind not in ("sum", "norm")]
    return f"has no stage of kind {missing[0]}" if missing else None


def detail() -> str:
    import triton

    return f": triton {triton.__version__}" + (", interpreted" if INTERPRETED else "")


@cache  # a captured graph knows the address of this table
def _centre(options: ConvOptions, weight_shape: tuple[int, ...], device: torch.device) -> Tensor | None:
    """Boolean ``[P, C_in]``: True where a weight of the last tap is alive; None where all are."""
    mask = options.partial_mask(weight_shape)
    if mask is None:
        return None
    i, j = tap_at((0, 0), (weight_shape[2], weight_shape[3])).place
    return kept(device, lambda: mask[:, :, i, j].contiguous().to(device))


@planned
def _live(options: ConvOptions, weight_shape: tuple[int, ...], x_shape: tuple[int, ...], device: torch.device) -> Any:
    """The live weights of a mask, as the kernels take them."""
    taps = options.taps_inside((weight_shape[2], weight_shape[3]), (x_shape[2], x_shape[3]))
    return _kernels("taps").Live(taps, _centre(options, weight_shape, device))


@planned
def _kernels(name: str) -> Any:
    """A module of kernels, imported on first use. An import statement takes ten times as long in every call."""
    return import_module(f"..kernels.{name}", __package__)


def _on_its_device(function: Callable[..., Any]) -> Callable[..., Any]:
    """Runs a function with its tensors' device as the current one, on which Triton launches."""

    @wraps(function)
    def run(first: Tensor, *args: Any, **options: Any) -> Any:
        if _has_one_device():
            return function(first, *args, **options)
        with torch.cuda.device_of(first):
            return function(first, *args, **options)

    return run


@cache
def _has_one_device() -> bool:
    """Then it is the current one. To ask for that and to make it so takes as long as to allocate two tensors."""
    return torch.cuda.device_count() < 2


@_on_its_device
def masked_conv_with_sigmoid(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cond: Tensor | None,
    options: ConvOptions,
    context: Tensor | None = None,
    context_weight: Tensor | None = None,
    *,
    saves: bool = True,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The output, the sigmoid of the gate and the output without its residual: of these the slope follows."""
    live = _live(options, weight.shape, x.shape, weight.device)
    cond = in_channels_last(_with_context(cond, context, context_weight))
    out, sigmoid = _kernels("masked_conv").forward(
        in_channels_last(x), weight, contiguous(bias), cond, live, options.activation, saves and options.has_sigmoid
    )
    return out + x if options.residual else out, sigmoid, out if saves and options.keeps_activated else None


def _with_context(cond: Tensor | None, context: Tensor | None, context_weight: Tensor | None) -> Tensor | None:
    """The condition with the context's part in it: the kernels have no product with a context of their own."""
    if context is None or context_weight is None:
        return cond
    own = F.conv2d(context, context_weight[:, :, None, None])
    return own if cond is None else own + (cond if cond.dim() == 4 else cond[:, :, None, None])


def masked_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cond: Tensor | None,
    options: ConvOptions,
    context: Tensor | None = None,
    context_weight: Tensor | None = None,
) -> Tensor:
    return masked_conv_with_sigmoid(x, weight, bias, cond, options, context, context_weight, saves=False)[0]


@_on_its_device
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
    live, of_context = _live(options, weight.shape, x.shape, weight.device), any(needs[4:])
    grad_x, grad_weight, grad_bias, grad_cond = _kernels("masked_conv_backward").backward(
        in_channels_last(grad), in_channels_last(out), in_channels_last(sigmoid) if options.has_sigmoid else None,
        in_channels_last(x), weight, live, options.activation,
        [*needs[:3], needs[3] or of_context], None if of_context else cond,
    )  # fmt: skip
    if grad_x is not None and options.residual:
        grad_x = grad_x + grad
    grads = [grad_x, grad_weight, grad_bias]
    if not of_context or context is None or context_weight is None:
        return [*grads, grad_cond, None, None]
    slope = grad_cond  # the gradient of a condition that is a map
    if cond is not None and cond.dim() == 2:
        grad_cond = slope.float().sum((2, 3)).to(slope.dtype)
    return [
        *grads,
        grad_cond if needs[3] else None,
        F.conv2d(slope, context_weight.t()[:, :, None, None]) if needs[4] else None,
        torch.einsum("bphw,bdhw->pd", slope, context) if needs[5] else None,
    ]


def _as_tiles(mask: Mask) -> Any:
    in_degrees, out_degrees, adjacency = mask
    tiles = _kernels("live_tiles").Mask
    return tiles(out_degrees, in_degrees) if adjacency is None else tiles(adjacency)


@_on_its_device
def masked_linear(x: Tensor, weight: Tensor, bias: Tensor | None, mask: Mask, activation: str) -> Tensor:
    args = (x.contiguous(), weight.contiguous(), contiguous(bias), _as_tiles(mask), activation)
    return _kernels("masked_linear").forward(*args)


@_on_its_device
def masked_linear_backward(
    grad: Tensor,
    y: Tensor | None,
    x: Tensor,
    weight: Tensor,
    mask: Mask,
    activation: str,
    needs: Sequence[bool],
) -> list[Tensor | None]:
    args = (grad.contiguous(), contiguous(y), x.contiguous(), weight.contiguous(), _as_tiles(mask), activation)
    return _kernels("masked_linear_backward").backward(*args, needs)


def made(x: Tensor, layers: Layers, activation: str) -> Tensor:
    return made_with_hidden(x, layers, activation)[0]


@_on_its_device
def made_with_hidden(x: Tensor, layers: Layers, activation: str) -> list[Tensor]:
    """In one launch where `kernels.made.why_not` has nothing against it, else in one for each layer."""
    kernels, (weights, biases, _, cond) = _kernels("made"), layers
    if kernels.why_not(weights, len(x)) is None:
        weights, biases = [t.contiguous() for t in weights], [t.contiguous() for t in biases]
        *hidden, y = kernels.forward(x.contiguous(), weights, biases, _tiles_of(layers), contiguous(cond), activation)
        return [y, *hidden]
    return by_layers.made_with_hidden(sys.modules[__name__], x, layers, activation)


def _tiles_of(layers: Layers) -> list[Any]:
    tiles = _kernels("live_tiles").Mask
    return [tiles(outs, ins) for ins, outs in pairwise(layers.degrees)]


@_on_its_device
def made_backward(
    grad: Tensor, x: Tensor, hidden: Sequence[Tensor], layers: Layers, activation: str, needs: Sequence[bool]
) -> list[Tensor | None]:
    """In three launches where `kernels.made.why_not` has nothing against it, else in one for each layer."""
    if not len(x):
        return by_layers.made_backward(sys.modules[__name__], grad, x, hidden, layers, activation, needs)
    if _kernels("made").why_not(layers.weights, len(x)) is None:
        backward = _kernels("made_backward").backward
    else:
        backward = _kernels("masked_linear_backward").backward_of_layers
    hidden, weights = [t.contiguous() for t in hidden], [t.contiguous() for t in layers.weights]
    return backward(grad.contiguous(), x.contiguous(), hidden, weights, _tiles_of(layers), activation, needs)


@_on_its_device
def made_inverse(eps: Tensor, layers: Layers, transform: Transform) -> tuple[Tensor, Tensor]:
    from ..kernels import made_inverse as kernels

    *tensors, cond = layers
    x, log_det = kernels.inverse(eps.contiguous(), *tensors, contiguous(cond), *transform)
    return x[None], log_det


def made_sample(noise: Tensor, layers: Layers, activation: str) -> tuple[Tensor, Tensor]:
    (x,), log_prob = made_inverse(noise, layers, Transform(activation, "bernoulli"))
    return x, log_prob


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
