"""Contract of `masked_conv`: the convolution of a PixelCNN, with its condition and activation in the same pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import activations, backends, reference
from ..backends.memory_format import channels_last
from ..masks import MASK_TYPES, dilation_pair
from ..reference.arguments import ConvOptions
from . import registry


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
    tensors = (x, weight, bias, cond, context, context_weight)
    _check(*tensors, options)
    if registry.only_plain_torch_follows("masked_conv", backend, *tensors):
        # a mapped tensor has no memory format
        return reference.masked_conv(x, weight, bias, cond, options, context, context_weight)
    call = _Call(x, weight, bias, cond, *options[:4], backend, context, context_weight, residual)
    if registry.only_autograd_looks(*tensors):
        return _MaskedConv.apply(True, *call) if torch.is_grad_enabled() else _forward(*call)
    return torch.ops.vlae_fast.masked_conv(*call)


class _Call(NamedTuple):
    """The arguments of the op as its schema lists them."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    cond: Tensor | None
    mask_type: str
    image_channels: int
    activation: str
    dilation: Sequence[int]
    backend: str
    context: Tensor | None = None
    context_weight: Tensor | None = None
    residual: bool = False

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        return self.x, self.weight, self.bias, self.cond, self.context, self.context_weight

    @property
    def options(self) -> ConvOptions:
        dilation = (self.dilation[0], self.dilation[1])
        return ConvOptions(self.mask_type, self.image_channels, self.activation, dilation, self.residual)

    @property
    def row(self) -> Any:
        """The module of the row of the table that runs it."""
        return backends.pick("masked_conv", self.x, self.backend).namespace

    def of_row(self, function: Callable[..., Any]) -> Any:
        """What a function of the row gives, whose arguments are those of a contract."""
        return function(self.x, self.weight, self.bias, self.cond, self.options, self.context, self.context_weight)


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
    activations.check("masked_conv", "masked_conv", activation)
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


def _forward(*args: Any) -> Tensor:
    call = _Call(*args)
    return channels_last(call.of_row(call.row.masked_conv))


def _forward_fake(*args: Any) -> Tensor:
    call = _Call(*args)
    channels = call.weight.shape[0] // activations.columns(call.activation)
    return call.x.new_empty(call.x.shape[0], channels, *call.x.shape[2:]).to(memory_format=torch.channels_last)


def _with_sigmoid(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    call = _Call(*args)
    out, *saved = call.of_row(call.row.masked_conv_with_sigmoid)
    sigmoid, activated = (channels_last(t) if t.dim() == 4 else t for t in saved)
    return channels_last(out), sigmoid, activated


def _with_sigmoid_fake(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    call, out = _Call(*args), _forward_fake(*args)
    sigmoid, activated = (
        torch.empty_like(out) if kept else call.x.new_empty(0)
        for kept in (call.options.has_sigmoid, call.options.keeps_activated)
    )
    return out, sigmoid, activated


def _backward(grad: Tensor, out: Tensor | None, sigmoid: Tensor, *args: Any) -> list[Tensor]:
    call, needs = _with_needs(args)
    x, weight, bias, cond, *of_context = call.tensors
    tensors = (grad, out, sigmoid, x, weight, bias, cond)
    grads = call.row.masked_conv_backward(*tensors, call.options, needs, *of_context)
    return [
        channels_last(g) if g.dim() == 4 and t is not weight else g
        for g, t in zip(grads, call.tensors, strict=True)
        if g is not None
    ]


def _backward_fake(grad: Tensor, out: Any, sigmoid: Any, *args: Any) -> list[Tensor]:
    call, needs = _with_needs(args)
    flat = torch.contiguous_format
    return [
        torch.empty_like(t, memory_format=flat if t is call.weight or t.dim() != 4 else torch.channels_last)
        for t, need in zip(call.tensors, needs, strict=True)
        if need and t is not None
    ]


def _with_needs(args: Sequence[Any]) -> tuple[_Call, Sequence[bool]]:
    """The call of a backward's arguments, and which gradients it needs, in the order of its tensors."""
    before = len(_NAMED) + 4
    return _Call(*args[:before], *args[before + 1 :]), args[before]


class _MaskedConv(torch.autograd.Function):
    """apply(direct, *call). direct: without the dispatcher, cf. `registry.only_autograd_looks`.

    Keeps the output without its residual, and the sigmoid of the gate: every activation's slope follows from them.
    Measured on the CPU against computing the pre-activation again: a third less arithmetic in the backward, for one
    tensor like the output under ``gate`` and none otherwise.
    """

    @staticmethod
    def forward(ctx: Any, direct: bool, *args: Any) -> Tensor:
        if not any(ctx.needs_input_grad):
            return _forward(*args) if direct else registry.below_autograd("masked_conv", *args)
        saving = _with_sigmoid(*args) if direct else registry.below_autograd("masked_conv_with_sigmoid", *args)
        (out, sigmoid, activated), call = saving, _Call(*args)
        kept = None if call.activation == "none" else activated if call.residual else out
        ctx.options, ctx.backend = call.options, call.backend
        ctx.save_for_backward(kept, sigmoid, *call.tensors)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        _, *of_first = ctx.needs_input_grad[:5]
        needs = [*of_first, *ctx.needs_input_grad[-3:-1]]
        kept = ctx.saved_tensors  # once: a checkpoint computes them again for whoever asks, and refuses a second time
        out, sigmoid, x, weight, bias, cond, *of_context = kept
        tensors = (grads[0], out, sigmoid, x, weight, bias, cond)
        if registry.only_plain_torch_differentiates(*grads):
            found = reference.masked_conv_backward(*tensors, ctx.options, needs, *of_context)
        else:
            args = (*tensors, *ctx.options[:4], ctx.backend, needs, *of_context, ctx.options.residual)
            direct = registry.only_autograd_looks(grads[0], *kept)
            given = iter(_backward(*args) if direct else registry.below_autograd("masked_conv_backward", *args))
            found = [next(given) if need else None for need in needs]
        return None, *found[:4], *(None for _ in _NAMED), *found[4:], None


def _autograd(*args: Any) -> Tensor:
    if not torch.is_grad_enabled():
        return registry.below_autograd("masked_conv", *args)
    return _MaskedConv.apply(False, *_Call(*args))


_TENSORS = "Tensor x, Tensor weight, Tensor? bias, Tensor? cond"
_NAMED = ("str mask_type", "int image_channels", "str activation", "int[] dilation", "str backend")
_OPTIONS = ", ".join(_NAMED)
_CONTEXT = "Tensor? context=None, Tensor? context_weight=None, bool residual=False"
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
