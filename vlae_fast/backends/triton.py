"""The Triton kernels, for GPUs: imported on first use. Their absence is a reason to give, never an ImportError."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import cache, lru_cache, wraps
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kept import kept
from ..masks import Tap, tap_at
from ..plan import Plan
from ..reference.arguments import ConvOptions, Layers, Mask, Transform
from . import by_layers, gpu
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


def lacks(plan: Plan, like: Tensor | None) -> str | None:
    """The part of a plan that the kernel has not, or None."""
    missing = [stage.kind for stage in plan.stages if stage.kind not in ("sum", "norm")]
    return f"has no stage of kind {missing[0]}" if missing else None


def detail() -> str:
    import triton

    return f": triton {triton.__version__}" + (", interpreted" if INTERPRETED else "")


@lru_cache(maxsize=256)
def _taps(options: ConvOptions, weight_shape: tuple[int, ...], image_size: tuple[int, int]) -> tuple[Tap, ...]:
    return options.taps_inside((weight_shape[2], weight_shape[3]), image_size)


@cache  # a captured graph knows the address of this table
def _centre(options: ConvOptions, weight_shape: tuple[int, ...], device: torch.device) -> Tensor | None:
    """Boolean ``[P, C_in]``: True where a weight of the last tap is alive; None where all are."""
    mask = options.partial_mask(weight_shape)
    if mask is None:
        return None
    i, j = tap_at((0, 0), (weight_shape[2], weight_shape[3])).place
    return kept(device, lambda: mask[:, :, i, j].contiguous().to(device))


def _live(x: Tensor, weight: Tensor, options: ConvOptions) -> tuple[tuple[Tap, ...], Tensor | None]:
    shape = tuple(weight.shape)
    return _taps(options, shape, (x.shape[2], x.shape[3])), _centre(options, shape, weight.device)


def _on_its_device(function: Callable[..., Any]) -> Callable[..., Any]:
    """Runs a function with its tensors' device as the current one, on which Triton launches."""

    @wraps(function)
    def run(first: Tensor, *args: Any, **options: Any) -> Any:
        with torch.cuda.device_of(first):
            return function(first, *args, **options)

    return run


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
) -> tuple[Tensor, Tensor, Tensor]:
    """The output, the sigmoid of the gate and the output without its residual: of these the slope follows."""
    from ..kernels import masked_conv as kernels

    taps, centre = _live(x, weight, options)
    with_sigmoid = saves and options.has_sigmoid
    cond = _with_context(cond, context, context_weight)
    out, sigmoid = kernels.forward(nhwc(x), weight, bias, nhwc(cond), taps, centre, options.activation, with_sigmoid)
    activated = nchw(out)
    return (
        activated + x if options.residual else activated,
        x.new_empty(0) if sigmoid is None else nchw(sigmoid),
        activated if saves and options.keeps_activated else x.new_empty(0),
    )


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
    sigmoid: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cond: Tensor | None,
    options: ConvOptions,
    needs: Sequence[bool],
    context: Tensor | None = None,
    context_weight: Tensor | None = None,
) -> list[Tensor | None]:
    from ..kernels import masked_conv_backward as kernels

    taps, centre = _live(x, weight, options)
    gate, of_context = nhwc(sigmoid) if options.has_sigmoid else None, any(needs[4:])
    grad_x, grad_weight, grad_bias, grad_cond = kernels.backward(
        nhwc(grad), nhwc(out), gate, nhwc(x), weight, taps, centre, options.activation,
        [*needs[:3], needs[3] or of_context], None if of_context else cond,
    )  # fmt: skip
    if grad_cond is not None and grad_cond.dim() == 4:
        grad_cond = nchw(grad_cond)
    if grad_x is not None:
        grad_x = nchw(grad_x) + grad if options.residual else nchw(grad_x)
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
    from ..kernels import live_tiles

    out_and_in = (mask.out_degrees, mask.in_degrees)
    return live_tiles.Mask(*out_and_in) if mask.adjacency is None else live_tiles.Mask(mask.adjacency)


@_on_its_device
def masked_linear(x: Tensor, weight: Tensor, bias: Tensor | None, mask: Mask, activation: str) -> Tensor:
    from ..kernels import masked_linear as kernels

    return kernels.forward(x.contiguous(), weight.contiguous(), contiguous(bias), _as_tiles(mask), activation)


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
    from ..kernels import masked_linear_backward as kernels

    args = (grad.contiguous(), contiguous(y), x.contiguous(), weight.contiguous(), _as_tiles(mask), activation)
    return kernels.backward(*args, needs)


def made(x: Tensor, layers: Layers, activation: str) -> Tensor:
    return made_with_hidden(x, layers, activation)[0]


@_on_its_device
def made_with_hidden(x: Tensor, layers: Layers, activation: str) -> list[Tensor]:
    """In one launch where `kernels.made.why_not` has nothing against it, else in one for each layer."""
    from ..kernels import made as kernels

    if kernels.why_not(layers.weights, len(x)) is None:
        weights, biases = ([t.contiguous() for t in tensors] for tensors in (layers.weights, layers.biases))
        cond = contiguous(layers.cond)
        *hidden, y = kernels.forward(x.contiguous(), weights, biases, _tiles_of(layers), cond, activation)
        return [y, *hidden]
    return by_layers.made_with_hidden(sys.modules[__name__], x, layers, activation)


def _tiles_of(layers: Layers) -> list[Any]:
    return [_as_tiles(Mask(*degrees)) for degrees in pairwise(layers.degrees)]


@_on_its_device
def made_backward(
    grad: Tensor, x: Tensor, hidden: Sequence[Tensor], layers: Layers, activation: str, needs: Sequence[bool]
) -> list[Tensor | None]:
    """In three launches where `kernels.made.why_not` has nothing against it, else in one for each layer."""
    from ..kernels import made, made_backward, masked_linear_backward

    if not len(x):
        return by_layers.made_backward(sys.modules[__name__], grad, x, hidden, layers, activation, needs)
    is_one = made.why_not(layers.weights, len(x)) is None
    backward = made_backward.backward if is_one else masked_linear_backward.backward_of_layers
    grad, x, *hidden = (t.contiguous() for t in (grad, x, *hidden))
    weights = [weight.contiguous() for weight in layers.weights]
    return backward(grad, x, hidden, weights, _tiles_of(layers), activation, needs)


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
