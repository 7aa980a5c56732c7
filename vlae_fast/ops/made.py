"""Contract of `made`: all masked layers of a MADE in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import backends, reference
from ..backends.memory_format import contiguous
from ..reference.arguments import Layers
from . import registry
from .made_inverse import check_network, check_versions, fail, versions


def made(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    degrees: Sequence[Tensor],
    cond: Tensor | None = None,
    *,
    activation: str = "relu",
    backend: str = "auto",
) -> Tensor:
    """``h_l = act( h_(l-1) (W_l * M_l)^T + b_l )`` from ``h_0 = x`` on; the last layer, the output, has no activation.

    ``M_l[o, i] = degrees[l][o] >= degrees[l - 1][i]``, and ``cond`` is added before the first activation. The outputs
    are those of one `masked_linear` after the other, in one call.

    Args:
        x: ``[B, I]``, floating point, any strides.
        weights, biases: the L >= 1 layers, ``[O, I]`` and ``[O]``, the dtype of x. Dead entries of a weight are never
            read; their gradient is 0.
        degrees: L + 1 integer tensors: of the inputs, the hidden layers, the outputs. Sorted degrees make M
            block-triangular, and empty blocks are skipped by the kernels.
        cond: ``[B, H]`` or None, H the outputs of the first layer, added to its pre-activation (context).
        activation: of the hidden layers: ``relu``, ``elu`` (alpha 1), ``tanh``.
        backend: ``auto`` or a name of `vlae_fast.backends.report`. cpu takes a tile of samples through all layers while
            their activations are in the cache; so does triton where the network is small, in one launch forward and
            three backward, and else runs its `masked_linear` layer by layer.

    Returns:
        ``[B, O]``, contiguous. For the gradient the outputs of the hidden layers are kept.

    Raises:
        ValueError, TypeError: an argument breaks a rule above. RuntimeError: the named backend cannot run this.

    Equivalent to::

        h = x
        for l in range(L):
            pre = F.linear(h, weights[l] * vf.masks.linear_mask(degrees[l], degrees[l + 1]), biases[l])
            pre = pre + cond if l == 0 else pre
            h = pre.relu() if l + 1 < L else pre                        # activation="relu"

    Source: Germain et al. 2015, arXiv 1502.03509, eq. 8-11.
    """
    layers = Layers(list(weights), list(biases), list(degrees), cond)
    _check(x, layers, activation)
    tensors = (x, cond, *layers.weights, *layers.biases)
    if registry.only_autograd_looks(*tensors, *layers.degrees):
        row = _row(x, backend)
        if _has_gradient(*tensors):
            return _Made.apply((row, backend, activation, layers.degrees), *tensors)
        return _run(row, x, layers, activation)
    if registry.only_plain_torch_follows("made", backend, *tensors):
        return reference.made(x, layers, activation)
    return torch.ops.vlae_fast.made(x, *layers, activation, backend)


def _check(x: Tensor, layers: Layers, activation: str) -> None:
    check_network("made", "x", x, layers, activation, autocasts=True)
    if len(layers.weights) != len(layers.degrees) - 1:
        fail("made", f"weights must be those of one MADE, {len(layers.degrees) - 1}", len(layers.weights))


def _row(x: Tensor, backend: str) -> Any:
    """The module of the row of the table that runs it."""
    return backends.pick("made", x, backend).namespace


def _run(row: Any, x: Tensor, layers: Layers, activation: str) -> Tensor:
    y: Tensor = row.made(x, layers, activation)
    return y.contiguous()


def _forward(x: Tensor, *args: Any) -> Tensor:
    *layers, activation, backend = args
    return _run(_row(x, backend), x, Layers(*layers), activation)


def _forward_fake(x: Tensor, weights: list[Tensor], *args: Any) -> Tensor:
    return x.new_empty(x.shape[0], weights[-1].shape[0])


def _run_with_hidden(row: Any, x: Tensor, layers: Layers, activation: str) -> list[Tensor]:
    return [out.contiguous() for out in row.made_with_hidden(x, layers, activation)]


def _with_hidden(x: Tensor, *args: Any) -> list[Tensor]:
    *layers, activation, backend = args
    return _run_with_hidden(_row(x, backend), x, Layers(*layers), activation)


def _with_hidden_fake(x: Tensor, weights: list[Tensor], *args: Any) -> list[Tensor]:
    return [x.new_empty(x.shape[0], weight.shape[0]) for weight in (weights[-1], *weights[:-1])]


def _run_backward(row: Any, *args: Any) -> list[Tensor | None]:
    return [contiguous(g) for g in row.made_backward(*args)]


def _backward(grad: Tensor, x: Tensor, hidden: list[Tensor], *args: Any) -> list[Tensor]:
    *layers, activation, backend, needs = args
    found = _run_backward(_row(x, backend), grad, x, hidden, Layers(*layers), activation, needs)
    return [g for g in found if g is not None]


def _backward_fake(
    grad: Tensor, x: Tensor, hidden: Any, weights: list[Tensor], biases: list[Tensor], *args: Any
) -> list[Tensor]:
    cond = (x.shape[0], weights[0].shape[0])
    shapes = [x.shape, cond, *(t.shape for t in (*weights, *biases))]
    return [x.new_empty(shape) for shape, need in zip(shapes, args[-1], strict=True) if need]


class _Made(torch.autograd.Function):
    """apply((row, backend, activation, degrees), x, cond, *weights, *biases): the op sees lists, autograd flat tensors.

    row: where nobody but autograd looks on, else None.
    """

    @staticmethod
    def forward(
        ctx: Any, how: tuple[Any, str, str, list[Tensor]], x: Tensor, cond: Tensor | None, *flat: Tensor
    ) -> Tensor:
        row, backend, activation, degrees = how
        layers = _layers(flat, degrees, cond)
        if row is None:
            y, *hidden = registry.below_autograd("made_with_hidden", x, *layers, activation, backend)
        else:
            y, *hidden = _run_with_hidden(row, x, layers, activation)
        # every activation's derivative follows from its output: nothing is computed again
        ctx.save_for_backward(x, cond, *flat, *hidden)
        ctx.how, ctx.versions = how, versions(degrees)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (row, backend, activation, degrees), needs = ctx.how, ctx.needs_input_grad[1:]
        check_versions("made", degrees, ctx.versions)
        kept = ctx.saved_tensors  # once, cf. `masked_conv`
        x, cond, *others = kept
        n_flat = 2 * (len(degrees) - 1)
        layers, hidden = _layers(others[:n_flat], degrees, cond), others[n_flat:]
        if registry.only_plain_torch_differentiates(*grads):
            _, *hidden = reference.made_with_hidden(x, layers, activation)  # as functions of the inputs
            found = reference.made_backward(grads[0], x, hidden, layers, activation, needs)
        elif registry.only_autograd_looks(grads[0], *kept, *degrees):
            found = _run_backward(row or _row(x, backend), grads[0], x, hidden, layers, activation, needs)
        else:
            args = (grads[0], x, hidden, *layers, activation, backend, list(needs))
            given = iter(registry.below_autograd("made_backward", *args))
            found = [next(given) if need else None for need in needs]
        return None, *found


def _layers(flat: Sequence[Tensor], degrees: list[Tensor], cond: Tensor | None) -> Layers:
    n = len(flat) // 2
    return Layers(list(flat[:n]), list(flat[n:]), degrees, cond)


def _has_gradient(*tensors: Tensor | None) -> bool:
    """Without a gradient to take nothing is kept for it."""
    if torch.is_grad_enabled():
        for t in tensors:  # a generator takes three times as long
            if t is not None and t.requires_grad:
                return True
    return False


def _autograd(x: Tensor, *args: Any) -> Tensor:
    weights, biases, degrees, cond, activation, backend = args
    tensors = (x, cond, *weights, *biases)
    if _has_gradient(*tensors):
        return _Made.apply((None, backend, activation, degrees), *tensors)
    y: Tensor = registry.below_autograd("made", x, *args)
    return y


_LAYERS = "Tensor[] weights, Tensor[] biases, Tensor[] degrees, Tensor? cond, str activation, str backend"
registry.define(f"made(Tensor x, {_LAYERS}) -> Tensor", _forward, _forward_fake)
registry.define(f"made_with_hidden(Tensor x, {_LAYERS}) -> Tensor[]", _with_hidden, _with_hidden_fake)
registry.define(
    f"made_backward(Tensor grad, Tensor x, Tensor[] hidden, {_LAYERS}, bool[] needs) -> Tensor[]",
    _backward,
    _backward_fake,
)
registry.autograd("made", _autograd)
registry.autocast("made")
