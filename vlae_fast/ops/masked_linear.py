"""Contract of `masked_linear`: the layer of a MADE."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor

from .. import activations, backends, reference
from ..backends.memory_format import contiguous
from ..reference.arguments import Mask
from . import registry


def masked_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    in_degrees: Tensor | None = None,
    out_degrees: Tensor | None = None,
    adjacency: Tensor | None = None,
    activation: str = "none",
    backend: str = "auto",
) -> Tensor:
    """``act( x (W * M)^T + b )`` with ``M[o, i] = out_degrees[o] >= in_degrees[i]``, or with any boolean adjacency M.

    Args:
        x: ``[B, I]``, floating point, any strides.
        weight: ``[O, I]``, the dtype of x. Dead entries are never read; their gradient is 0.
        bias: ``[O]`` or None.
        in_degrees, out_degrees: integer ``[I]`` and ``[O]``; sorted degrees make M block-triangular, and
            empty blocks are skipped by the kernels. Give these or ``adjacency``, not both.
        adjacency: boolean ``[O, I]``.
        activation: ``none``, ``relu``, ``elu`` (alpha 1), ``tanh``.
        backend: ``auto`` or a name of `vlae_fast.backends.report`.

    Returns:
        ``[B, O]``, contiguous.

    Raises:
        ValueError, TypeError: an argument breaks a rule above. RuntimeError: the named backend cannot run this.

    Equivalent to::

        mask = vf.masks.linear_mask(in_degrees, out_degrees)            # or the adjacency
        y = F.linear(x, weight * mask, bias).relu()                     # activation="relu"

    Source: Germain et al. 2015, arXiv 1502.03509, eq. 8-11.
    """
    _check(x, weight, bias, activation)
    _check_mask(weight, in_degrees, out_degrees, adjacency)
    mask = Mask(in_degrees, out_degrees, adjacency)
    if registry.only_autograd_looks(x, weight, bias, *mask):
        row = _row(x, backend)
        if torch.is_grad_enabled():
            return _MaskedLinear.apply((row, backend, activation, mask), x, weight, bias)
        return _run(row, x, weight, bias, mask, activation)
    if registry.only_plain_torch_follows("masked_linear", backend, x, weight, bias):
        return reference.masked_linear(x, weight, bias, mask, activation)
    return torch.ops.vlae_fast.masked_linear(x, weight, bias, *mask, activation, backend)


def _row(x: Tensor, backend: str) -> Any:
    """The module of the row of the table that runs it."""
    return backends.pick("masked_linear", x, backend).namespace


def _fail(rule: str, got: object) -> NoReturn:
    raise ValueError(f"masked_linear: {rule}, got {got}")


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> None:
    activations.check("masked_linear", "masked_linear", activation)
    if x.dim() != 2 or not x.is_floating_point():
        _fail("x must be a floating-point tensor [B, I]", f"{x.dtype} {tuple(x.shape)}")
    if weight.dim() != 2 or weight.shape[1] != x.shape[1]:
        _fail(f"weight must be [O, I] with I = {x.shape[1]} of x", tuple(weight.shape))
    if bias is not None and bias.shape != weight.shape[:1]:
        _fail(f"bias must be [O] = [{weight.shape[0]}]", tuple(bias.shape))
    dtype = x.dtype
    if weight.dtype != dtype or (bias is not None and bias.dtype != dtype):
        name, other = ("weight", weight.dtype) if bias is None or weight.dtype != dtype else ("bias", bias.dtype)
        if not torch.is_autocast_enabled(x.device.type):
            raise TypeError(f"masked_linear: {name} must have the dtype of x, {dtype}, got {other}")


def _check_mask(
    weight: Tensor, in_degrees: Tensor | None, out_degrees: Tensor | None, adjacency: Tensor | None
) -> None:
    if adjacency is not None:
        if in_degrees is not None or out_degrees is not None:
            _fail("give degrees or adjacency", "both")
        if adjacency.dtype != torch.bool or adjacency.shape != weight.shape:
            _fail(f"adjacency must be boolean {list(weight.shape)}", f"{adjacency.dtype} {tuple(adjacency.shape)}")
        return
    for name, degrees, size in (("in", in_degrees, weight.shape[1]), ("out", out_degrees, weight.shape[0])):
        if degrees is None:
            _fail(f"{name}_degrees must be given where adjacency is not", None)
        if degrees.shape != (size,) or degrees.is_floating_point():
            _fail(f"{name}_degrees must be integers [{size}]", f"{degrees.dtype} {tuple(degrees.shape)}")


def _run(row: Any, x: Tensor, weight: Tensor, bias: Tensor | None, mask: Mask, activation: str) -> Tensor:
    y: Tensor = row.masked_linear(x, weight, bias, mask, activation)
    return y.contiguous()


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, *args: Any) -> Tensor:
    return _run(_row(x, args[-1]), x, weight, bias, Mask(*args[:3]), args[3])


def _forward_fake(x: Tensor, weight: Tensor, *args: Any) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


def _run_backward(row: Any, grad: Tensor, *args: Any) -> list[Tensor | None]:
    return [contiguous(g) for g in row.masked_linear_backward(grad, *args)]


def _backward(grad: Tensor, y: Tensor | None, x: Tensor, weight: Tensor, *args: Any) -> list[Tensor]:
    *mask, activation, backend, needs = args
    found = _run_backward(_row(x, backend), grad, y, x, weight, Mask(*mask), activation, needs)
    return [g for g in found if g is not None]


def _backward_fake(grad: Tensor, y: Any, x: Tensor, weight: Tensor, *args: Any) -> list[Tensor]:
    shapes = (x.shape, weight.shape, weight.shape[:1])
    return [x.new_empty(shape) for shape, need in zip(shapes, args[-1], strict=True) if need]


class _MaskedLinear(torch.autograd.Function):
    """apply((row, backend, activation, mask), x, weight, bias). row: where nobody but autograd looks on, else None."""

    @staticmethod
    def forward(ctx: Any, how: tuple[Any, str, str, Mask], x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        row, backend, activation, mask = how
        if row is None:
            y = registry.below_autograd("masked_linear", x, weight, bias, *mask, activation, backend)
        else:
            y = _run(row, x, weight, bias, mask, activation)
        # every activation's derivative follows from its output: nothing is computed again, and y is the next layer's x
        ctx.save_for_backward(y if activation != "none" else None, x, weight, *mask)
        ctx.how = row, backend, activation
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (row, backend, activation), needs = ctx.how, ctx.needs_input_grad[1:]
        kept = ctx.saved_tensors
        y, x, weight, *degrees = kept
        mask = Mask(*degrees)
        if registry.only_plain_torch_differentiates(*grads):
            found = reference.masked_linear_backward(grads[0], y, x, weight, mask, activation, needs)
        elif registry.only_autograd_looks(grads[0], *kept):
            found = _run_backward(row or _row(x, backend), grads[0], y, x, weight, mask, activation, needs)
        else:
            args = (grads[0], *kept, activation, backend, list(needs))
            given = iter(registry.below_autograd("masked_linear_backward", *args))
            found = [next(given) if need else None for need in needs]
        return None, *found


def _apply(*args: Any) -> Tensor:
    """Without a gradient to take, no node is made: on a CPU it costs as much as a layer of a few samples."""
    if torch.is_grad_enabled():
        x, weight, bias, *mask, activation, backend = args
        return _MaskedLinear.apply((None, backend, activation, Mask(*mask)), x, weight, bias)
    return registry.below_autograd("masked_linear", *args)


_MASK = "Tensor? in_degrees, Tensor? out_degrees, Tensor? adjacency, str activation, str backend"
registry.define(f"masked_linear(Tensor x, Tensor weight, Tensor? bias, {_MASK}) -> Tensor", _forward, _forward_fake)
registry.define(
    f"masked_linear_backward(Tensor grad, Tensor? y, Tensor x, Tensor weight, {_MASK}, bool[] needs) -> Tensor[]",
    _backward,
    _backward_fake,
)
registry.autograd("masked_linear", _apply)
registry.autocast("masked_linear")
