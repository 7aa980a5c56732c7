"""Contract of `masked_conv`: the convolution of a PixelCNN, with its condition and activation in the same pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

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
    if registry.only_autograd_looks(*tensors):
        row = _row(x, backend)
        if torch.is_grad_enabled():
            return _MaskedConv.apply((row, backend, options), *tensors)
        return _run(row, options, *tensors)
    if registry.only_plain_torch_follows("masked_conv", backend, *tensors):
        # a mapped tensor has no memory format
        return reference.masked_conv(x, weight, bias, cond, options, context, context_weight)
    return torch.ops.vlae_fast.masked_conv(*_call(backend, options, tensors))


def _row(x: Tensor, backend: str) -> Any:
    """The module of the row of the table that runs it."""
    return backends.pick("masked_conv", x, backend).namespace


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
    def picked(self) -> tuple[Any, ...]:
        """The row that runs it, its options and tensors."""
        return _row(self.x, self.backend), self.options, *self.tensors


def _call(backend: str, options: ConvOptions, tensors: Sequence[Tensor | None]) -> _Call:
    return _Call(*tensors[:4], *options[:4], backend, *tensors[4:], options.residual)  # type: ignore[arg-type, call-arg]


def _check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cond: Tensor | None,
    context: Tensor | None,
    context_weight: Tensor | None,
    options: ConvOptions,
) -> None:
    mask_type, image_channels, activation, _, residual = options
    if mask_type not in MASK_TYPES:
        _fail(f"mask_type must be one of {', '.join(MASK_TYPES)}", repr(mask_type))
    activations.check("masked_conv", "masked_conv", activation)
    if x.dim() != 4 or not x.is_floating_point():
        _fail("x must be a floating-point tensor [B, C_in, H, W]", f"{x.dtype} {tuple(x.shape)}")
    batch, inputs, height, width = x.shape
    if weight.dim() != 4 or (shape := weight.shape)[2] != shape[3] or shape[2] % 2 == 0:
        _fail("weight must be [P, C_in, k, k] with k odd", tuple(weight.shape))
    columns, of_weight, *_ = shape
    if of_weight != inputs:
        _fail(f"x must have the C_in of weight, {of_weight} channels", inputs)
    if 0 in (inputs, height, width, columns):  # a batch may be empty, an image may not
        _fail("x must have C_in, H, W >= 1 and weight P >= 1", (tuple(x.shape), tuple(shape)))
    channels, rest = divmod(columns, activations.columns(activation))
    if rest:
        _fail(f"weight must have an even P under activation {activation!r}", columns)
    if image_channels < 1 or (image_channels > 1 and channels % image_channels):
        _fail(f"image_channels must be positive and divide the {channels} output channels", image_channels)
    if bias is not None and bias.shape != (columns,):
        _fail(f"bias must be [P] = [{columns}]", tuple(bias.shape))
    if cond is not None and cond.shape not in ((batch, columns), (batch, columns, height, width)):
        _fail(f"cond must be {[batch, columns]} or {[batch, columns, height, width]}", tuple(cond.shape))
    if (context is None) != (context_weight is None):
        given, missing = ("context_weight", "context") if context is None else ("context", "context_weight")
        _fail(f"{missing} must be given with {given}", None)
    if context is not None and context_weight is not None:
        if context.dim() != 4 or context.shape[1] < 1 or context.shape != (batch, context.shape[1], height, width):
            _fail(f"context must be [{batch}, D, {height}, {width}] with D >= 1", tuple(context.shape))
        if context_weight.shape != (columns, context.shape[1]):
            _fail(f"context_weight must be [P, D] = {[columns, context.shape[1]]}", tuple(context_weight.shape))
    if residual and inputs != channels:
        _fail(f"residual must be False unless C_in = C = {channels}", f"C_in = {inputs}")
    dtype = x.dtype
    for name, tensor in zip(_OWN, (weight, bias, cond, context, context_weight), strict=True):
        # under autocast the op itself brings every tensor to one dtype
        if tensor is not None and tensor.dtype != dtype and not torch.is_autocast_enabled(x.device.type):
            raise TypeError(f"masked_conv: {name} must have the dtype of x, {dtype}, got {tensor.dtype}")


_OWN = ("weight", "bias", "cond", "context", "context_weight")  # tensors beside x


def _fail(rule: str, got: object) -> NoReturn:
    raise ValueError(f"masked_conv: {rule}, got {got}")


def _run(row: Any, options: ConvOptions, *tensors: Tensor | None) -> Tensor:
    return channels_last(row.masked_conv(*tensors[:4], options, *tensors[4:]))


def _run_saving(row: Any, options: ConvOptions, *tensors: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
    out, sigmoid, activated = row.masked_conv_with_sigmoid(*tensors[:4], options, *tensors[4:])
    return channels_last(out), _formatted(sigmoid), _formatted(activated)


def _run_backward(
    row: Any,
    options: ConvOptions,
    needs: Sequence[bool],
    of_output: tuple[Tensor, Tensor | None, Tensor | None],  # its gradient, and what was kept
    tensors: Sequence[Tensor | None],
) -> list[Tensor | None]:
    x, weight, bias, cond, context, context_weight = row.masked_conv_backward(
        *of_output, *tensors[:4], options, needs, *tensors[4:]
    )
    return [_formatted(x), weight, bias, _formatted(cond), _formatted(context), context_weight]


def _formatted(image: Tensor | None) -> Tensor | None:
    return image if image is None or image.dim() != 4 else channels_last(image)


def _forward(*args: Any) -> Tensor:
    return _run(*_Call(*args).picked)


def _forward_fake(*args: Any) -> Tensor:
    call = _Call(*args)
    channels = call.weight.shape[0] // activations.columns(call.activation)
    return call.x.new_empty(call.x.shape[0], channels, *call.x.shape[2:]).to(memory_format=torch.channels_last)


def _with_sigmoid(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    call = _Call(*args)
    out, *saved = _run_saving(*call.picked)
    sigmoid, activated = (call.x.new_empty(0) if t is None else t for t in saved)
    return out, sigmoid, activated


def _with_sigmoid_fake(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    call, out = _Call(*args), _forward_fake(*args)
    sigmoid, activated = (
        torch.empty_like(out) if kept else call.x.new_empty(0)
        for kept in (call.options.has_sigmoid, call.options.keeps_activated)
    )
    return out, sigmoid, activated


def _backward(grad: Tensor, out: Tensor | None, sigmoid: Tensor | None, *args: Any) -> list[Tensor]:
    call, needs = _with_needs(args)
    row, options, *tensors = call.picked
    return [g for g in _run_backward(row, options, needs, (grad, out, sigmoid), tensors) if g is not None]


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
    return _Call(*args[:_N_BEFORE], *args[_N_BEFORE + 1 :]), args[_N_BEFORE]


class _MaskedConv(torch.autograd.Function):
    """apply((row, backend, options), *tensors). row: where nobody but autograd looks on, else None.

    Keeps the output without its residual, and the sigmoid of the gate: every activation's slope follows from them.
    Measured on the CPU against computing the pre-activation again: a third less arithmetic in the backward, for one
    tensor like the output under ``gate`` and none otherwise.
    """

    @staticmethod
    def forward(ctx: Any, how: tuple[Any, str, ConvOptions], *tensors: Tensor | None) -> Tensor:
        row, backend, options = how
        call = None if row is not None else _call(backend, options, tensors)
        if not any(ctx.needs_input_grad):
            return _run(row, options, *tensors) if call is None else registry.below_autograd("masked_conv", *call)
        if call is None:
            out, sigmoid, activated = _run_saving(row, options, *tensors)
        else:
            out, sigmoid, activated = registry.below_autograd("masked_conv_with_sigmoid", *call)
        kept = None if options.activation == "none" else activated if options.residual else out
        ctx.how = how
        ctx.save_for_backward(kept, sigmoid, *tensors)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (row, backend, options), needs = ctx.how, ctx.needs_input_grad[1:]
        kept = ctx.saved_tensors  # once: a checkpoint computes them again for whoever asks, and refuses a second time
        (out, sigmoid, x, weight, bias, cond, *of_context), tensors = kept, kept[2:]
        of_output = grads[0], out, sigmoid
        if registry.only_plain_torch_differentiates(*grads):
            found = reference.masked_conv_backward(*of_output, x, weight, bias, cond, options, needs, *of_context)
        elif registry.only_autograd_looks(grads[0], *kept):
            found = _run_backward(row or _row(x, backend), options, needs, of_output, tensors)
        else:
            call = _call(backend, options, tensors)
            args = (*of_output, *call[:_N_BEFORE], list(needs), *call[_N_BEFORE:])
            given = iter(registry.below_autograd("masked_conv_backward", *args))
            found = [next(given) if need else None for need in needs]
        return None, *found


def _autograd(*args: Any) -> Tensor:
    if not torch.is_grad_enabled():
        return registry.below_autograd("masked_conv", *args)
    call = _Call(*args)
    return _MaskedConv.apply((None, call.backend, call.options), *call.tensors)


_TENSORS = "Tensor x, Tensor weight, Tensor? bias, Tensor? cond"
_NAMED = ("str mask_type", "int image_channels", "str activation", "int[] dilation", "str backend")
_N_BEFORE = 4 + len(_NAMED)  # arguments of a call before those of its context
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
    f"masked_conv_backward(Tensor grad, Tensor? out, Tensor? sigmoid, {_TENSORS}, {_OPTIONS}, bool[] needs, {_CONTEXT})"
    " -> Tensor[]",
    _backward,
    _backward_fake,
)
registry.autograd("masked_conv", _autograd)
registry.autocast("masked_conv")
