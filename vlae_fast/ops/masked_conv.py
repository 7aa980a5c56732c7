"""Contract of `masked_conv`: the convolution of a PixelCNN, with its condition and activation in the same pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import activations, backends, reference
from ..backends.memory_format import channels_last
from ..masks import MASK_TYPES, dilation_pair
from ..reference.arguments import ConvOptions
from . import registry

ACTIVATIONS = activations.names("masked_conv")


def masked_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    cond: Tensor | None = None,
    *,
    mask_type: str,
    image_channels: int = 1,
    activation: str = "none",
    dilation: int | Sequence[int] = 1,
    backend: str = "auto",
    context: Tensor | None = None,
    context_weight: Tensor | None = None,
    residual: bool = False,
) -> Tensor:
    """``act( sum over live taps t of W[:, :, t] x[. + d t] + bias + cond + V context )``, on a zero-padded image.

    P is the number of channels before the activation: 2 C under ``gate``, which halves them, else C.

    Args:
        x: ``[B, C_in, H, W]``, floating point, any strides.
        weight: ``[P, C_in, k, k]`` with k odd, the dtype of x. Dead entries are never read; their gradient is 0.
        bias: ``[P]`` or None.
        cond: ``[B, P]`` or ``[B, P, H, W]`` or None, added before the activation.
        mask_type: ``A``, ``B``, ``vertical_*`` or ``horizontal_*``, see `masks.live_taps`.
        image_channels: autoregressive channels of a pixel (3 for RGB), see `masks.conv_mask`.
        activation: ``none``, ``relu``, ``elu`` (alpha 1) or ``gate`` (``tanh(a) * sigmoid(b)`` of the channel halves).
        dilation: d, pixels from one tap to the next, (vertical, horizontal) or one int for both. The mask is of places
            in the kernel: it is the same for every d.
        backend: ``auto`` or a name of `vlae_fast.backends.report`.
        context: ``[B, D, H, W]`` or None, what each pixel is told. context_weight: V, ``[P, D]``. ``V context`` is a
            condition ``[B, P, H, W]`` that need not be made: the cpu backend adds its products to those of x.
        residual: adds x to the output, where C_in is C.

    Returns:
        ``[B, C, H, W]``, memory format channels_last.

    Raises:
        ValueError, TypeError: an argument breaks a rule above. RuntimeError: the named backend cannot run this.

    Equivalent to::

        mask = vf.masks.conv_mask(mask_type, weight.shape)
        y = F.conv2d(x, weight * mask, bias, padding=d * (k // 2), dilation=d) + cond[:, :, None, None]
        y = y + F.conv2d(context, context_weight[:, :, None, None])     # where there is a context
        y = y.chunk(2, 1)[0].tanh() * y.chunk(2, 1)[1].sigmoid()        # activation="gate"
        y = y + x                                                       # residual=True

    Source: van den Oord et al. 2016, arXiv 1606.05328, eq. 2 (gate) and eq. 4 (condition).
    """
    options = ConvOptions(mask_type, image_channels, activation, dilation_pair("masked_conv", dilation), residual)
    of_context = (context, context_weight)
    _check(x, weight, bias, cond, *of_context, options)
    if registry.only_plain_torch_follows("masked_conv", backend, x, weight, bias, cond, *of_context):
        # a mapped tensor has no memory format
        return reference.masked_conv(x, weight, bias, cond, options, *of_context)
    args = (x, weight, bias, cond, *options[:4], backend, *of_context, residual)
    if registry.only_autograd_looks(x, weight, bias, cond, *of_context):
        return _MaskedConv.apply(*args, True) if torch.is_grad_enabled() else _forward(*args)
    return torch.ops.vlae_fast.masked_conv(*args)


def _check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cond: Tensor | None,
    context: Tensor | None,
    context_weight: Tensor | None,
    options: ConvOptions,
) -> None:
    def fail(rule: str, got: object) -> None:
        raise ValueError(f"masked_conv: {rule}, got {got}")

    mask_type, image_channels, activation, *_ = options
    if mask_type not in MASK_TYPES:
        fail(f"mask_type must be one of {', '.join(MASK_TYPES)}", repr(mask_type))
    if activation not in ACTIVATIONS:
        fail(f"activation must be one of {', '.join(ACTIVATIONS)}", repr(activation))
    if x.dim() != 4 or not x.is_floating_point():
        fail("x must be a floating-point tensor [B, C_in, H, W]", f"{x.dtype} {tuple(x.shape)}")
    if weight.dim() != 4 or weight.shape[2] != weight.shape[3] or weight.shape[2] % 2 == 0:
        fail("weight must be [P, C_in, k, k] with k odd", tuple(weight.shape))
    columns = weight.shape[0]
    if weight.shape[1] != x.shape[1]:
        fail(f"x must have the C_in of weight, {weight.shape[1]} channels", x.shape[1])
    if 0 in (*x.shape[1:], columns):  # a batch may be empty, an image may not
        fail("x must have C_in, H, W >= 1 and weight P >= 1", (tuple(x.shape), tuple(weight.shape)))
    if columns % activations.columns(activation):
        fail(f"weight must have an even P under activation {activation!r}", columns)
    channels = columns // activations.columns(activation)
    if image_channels < 1 or (image_channels > 1 and channels % image_channels):
        fail(f"image_channels must be positive and divide the {channels} output channels", image_channels)
    if bias is not None and bias.shape != (columns,):
        fail(f"bias must be [P] = [{columns}]", tuple(bias.shape))
    batch, _, height, width = x.shape
    if cond is not None and cond.shape not in ((batch, columns), (batch, columns, height, width)):
        fail(f"cond must be {[batch, columns]} or {[batch, columns, height, width]}", tuple(cond.shape))
    if (context is None) != (context_weight is None):
        given, missing = ("context_weight", "context") if context is None else ("context", "context_weight")
        fail(f"{missing} must be given with {given}", None)
    if context is not None and context_weight is not None:
        if context.dim() != 4 or context.shape[1] < 1 or context.shape != (batch, context.shape[1], height, width):
            fail(f"context must be [{batch}, D, {height}, {width}] with D >= 1", tuple(context.shape))
        if context_weight.shape != (columns, context.shape[1]):
            fail(f"context_weight must be [P, D] = {[columns, context.shape[1]]}", tuple(context_weight.shape))
    if options.residual and x.shape[1] != channels:
        fail(f"residual must be False unless C_in = C = {channels}", f"C_in = {x.shape[1]}")
    own = {"weight": weight, "bias": bias, "cond": cond, "context": context, "context_weight": context_weight}
    for name, tensor in own.items():
        # under autocast the op itself brings every tensor to one dtype
        if tensor is not None and tensor.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type):
            raise TypeError(f"masked_conv: {name} must have the dtype of x, {x.dtype}, got {tensor.dtype}")


def _options(
    mask_type: str, image_channels: int, activation: str, dilation: Sequence[int], residual: bool = False
) -> ConvOptions:
    """The record of the arguments that a schema lists."""
    return ConvOptions(mask_type, image_channels, activation, (dilation[0], dilation[1]), residual)


def _of_row(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cond: Tensor | None,
    mask_type: str,
    image_channels: int,
    activation: str,
    dilation: Sequence[int],
    backend: str,
    context: Tensor | None = None,
    context_weight: Tensor | None = None,
    residual: bool = False,
) -> tuple[Any, tuple[Any, ...]]:
    """The module of the row that runs a call with a schema's arguments, and those as its functions take them."""
    options = _options(mask_type, image_channels, activation, dilation, residual)
    row = backends.pick("masked_conv", x, backend).namespace
    return row, (x, weight, bias, cond, options, context, context_weight)


def _forward(*args: Any) -> Tensor:
    row, given = _of_row(*args)
    return channels_last(row.masked_conv(*given))


def _forward_fake(x: Tensor, weight: Tensor, *args: Any) -> Tensor:
    channels = weight.shape[0] // activations.columns(args[4])
    return x.new_empty(x.shape[0], channels, *x.shape[2:]).to(memory_format=torch.channels_last)


def _with_sigmoid(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    row, given = _of_row(*args)
    out, *saved = row.masked_conv_with_sigmoid(*given)
    sigmoid, activated = (channels_last(t) if t.dim() == 4 else t for t in saved)
    return channels_last(out), sigmoid, activated


def _with_sigmoid_fake(x: Tensor, weight: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    out, options = _forward_fake(x, weight, *args), _options(*args[2:6], *args[9:])
    sigmoid, activated = (
        torch.empty_like(out) if kept else x.new_empty(0) for kept in (options.has_sigmoid, options.keeps_activated)
    )
    return out, sigmoid, activated


def _backward(grad: Tensor, out: Tensor | None, sigmoid: Tensor, *args: Any) -> list[Tensor]:
    *own, needs = args[:10]
    row, (*tensors, options, context, context_weight) = _of_row(*own, *args[10:])
    grads = row.masked_conv_backward(grad, out, sigmoid, *tensors, options, needs, context, context_weight)
    return [
        channels_last(g) if g.dim() == 4 and t is not tensors[1] else g
        for g, t in zip(grads, (*tensors, context, context_weight), strict=True)
        if g is not None
    ]


def _backward_fake(
    grad: Tensor, out: Any, sigmoid: Any, x: Tensor, weight: Tensor, bias: Any, cond: Any, *args: Any
) -> list[Tensor]:
    needs, context, context_weight = (*args[5:], None, None)[:3]
    flat = torch.contiguous_format
    return [
        torch.empty_like(t, memory_format=flat if t is weight or t.dim() != 4 else torch.channels_last)
        for t, need in zip((x, weight, bias, cond, context, context_weight), needs, strict=True)
        if need
    ]


class _MaskedConv(torch.autograd.Function):
    """Keeps the output without its residual, and the sigmoid of the gate: every activation's slope follows from them.

    Measured on the CPU against computing the pre-activation again: a third less arithmetic in the backward, for one
    tensor like the output under ``gate`` and none otherwise.
    """

    @staticmethod
    def forward(ctx: Any, *call: Any) -> Tensor:
        *args, direct = call  # without the dispatcher, cf. `registry.only_autograd_looks`
        if not any(ctx.needs_input_grad):
            return _forward(*args) if direct else registry.below_autograd("masked_conv", *args)
        saving = _with_sigmoid(*args) if direct else registry.below_autograd("masked_conv_with_sigmoid", *args)
        out, sigmoid, activated = saving
        ctx.options, ctx.residual = args[4:9], args[11]
        kept = None if args[6] == "none" else activated if ctx.residual else out
        ctx.save_for_backward(kept, sigmoid, *args[:4], *args[9:11])
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        needs = [ctx.needs_input_grad[i] for i in (0, 1, 2, 3, 9, 10)]
        saved, context = ctx.saved_tensors[:6], ctx.saved_tensors[6:]
        if registry.only_plain_torch_differentiates(*grads):
            mask_type, image_channels, activation, dilation, _ = ctx.options
            options = _options(mask_type, image_channels, activation, dilation, ctx.residual)
            out, sigmoid, x, weight, bias, cond = saved
            args = (grads[0], out, sigmoid, x, weight, bias, cond, options, needs)
            found = reference.masked_conv_backward(*args, *context)
        else:
            args = (grads[0], *saved, *ctx.options, needs, *context, ctx.residual)
            direct = registry.only_autograd_looks(grads[0], *ctx.saved_tensors)
            given = iter(_backward(*args) if direct else registry.below_autograd("masked_conv_backward", *args))
            found = [next(given) if need else None for need in needs]
        return *found[:4], *(None for _ in ctx.options), *found[4:], None, None


def _autograd(*args: Any) -> Tensor:
    if not torch.is_grad_enabled():
        return registry.below_autograd("masked_conv", *args)
    return _MaskedConv.apply(*args, *_DEFAULTS[len(args) - 9 :], False)


_TENSORS = "Tensor x, Tensor weight, Tensor? bias, Tensor? cond"
_OPTIONS = "str mask_type, int image_channels, str activation, int[] dilation, str backend"
_CONTEXT = "Tensor? context=None, Tensor? context_weight=None, bool residual=False"
_DEFAULTS = (None, None, False)
_ARGS = f"{_TENSORS}, {_OPTIONS}, {_CONTEXT}"
registry.define(f"masked_conv({_ARGS}) -> Tensor", _forward, _forward_fake)
registry.define(
    f"masked_conv_with_sigmoid({_ARGS}) -> (Tensor out, Tensor sigmoid, Tensor activated)",
    _with_sigmoid,
    _with_sigmoid_fake,
)
registry.define(
    f"masked_conv_backward(Tensor grad, Tensor? out, Tensor sigmoid, {_TENSORS}, {_OPTIONS}, bool[] needs, {_CONTEXT})"
    " -> Tensor[]",
    _backward,
    _backward_fake,
)
registry.autograd("masked_conv", _autograd)
registry.autocast("masked_conv")
