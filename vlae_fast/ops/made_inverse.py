"""Contract of `made_inverse`: the x that an autoregressive transform maps to eps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import backends
from . import registry

ACTIVATIONS = ("relu", "elu", "tanh")
SCALES = ("exp", "clipped_exp", "softplus", "sigmoid")


def made_inverse(
    eps: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    degrees: Sequence[Tensor],
    cond: Tensor | None = None,
    *,
    activation: str = "relu",
    scale: str = "exp",
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """The x with ``eps = (x - shift(x)) * exp(-log_scale(x))``, where MADE(x) gives shift and log_scale.

    Other libraries write ``eps = shift(x) + slope(s(x)) * x``, of a slope that is at least 0.001: ``scale`` names it.

    Args:
        eps: ``[B, D]``, floating point.
        weights, biases: of the L masked layers, ``[O, I]`` and ``[O]``. The last has 2 D outputs (shift, then
            log_scale: affine) or D outputs (shift: mean-only, log_scale = 0).
        degrees: L + 1 integer tensors: of the inputs (a permutation of 1..D), the hidden layers, the outputs. The
            outputs that belong to input i have its degree - 1.
        cond: ``[B, H]`` or None, added to the first layer's pre-activation (context).
        activation: of the hidden layers: ``relu``, ``elu`` (alpha 1), ``tanh``.
        scale: ``exp``, the transform above; or a slope of the other one, s in log_scale's place (never mean-only):
            ``clipped_exp`` (``exp(s / (1 + |s| / log(1000)))``, as zuko's), ``softplus`` (``softplus(s) + 0.001``, as
            nflows'), ``sigmoid`` (``sigmoid(s + 2) + 0.001``, as normflows').
        backend: ``auto`` or a name of `vlae_fast.backends.report`.

    Returns:
        x ``[B, D]`` and ``log|det d eps/d x|`` ``[B]`` in nats. Both are differentiable; the gradient is
        computed by the reference, whichever backend drew x: its last bits may depend on the number of threads.

    Raises:
        ValueError, TypeError: an argument breaks a rule above; on the CPU also: eps, a shift or a scale is not finite.
        RuntimeError: the named backend cannot run this.

    Equivalent to::

        x = torch.zeros_like(eps)
        for _ in range(D):
            shift, log_scale = made(x).chunk(2, 1)
            x = shift + log_scale.exp() * eps

    Source: Papamakarios et al. 2017, arXiv 1705.07057, eq. 4.
    """
    _check(eps, weights, biases, degrees, cond, activation, scale)
    x, log_det = torch.ops.vlae_fast.made_inverse(
        eps, list(weights), list(biases), list(degrees), cond, activation, scale, backend
    )
    return x, log_det


def _check(
    eps: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    degrees: Sequence[Tensor],
    cond: Tensor | None,
    activation: str,
    scale: str,
) -> None:
    def fail(rule: str, got: object) -> None:
        raise ValueError(f"made_inverse: {rule}, got {got}")

    if activation not in ACTIVATIONS:
        fail(f"activation must be one of {', '.join(ACTIVATIONS)}", repr(activation))
    if scale not in SCALES:
        fail(f"scale must be one of {', '.join(SCALES)}", repr(scale))
    if eps.dim() != 2 or eps.shape[1] < 1 or not eps.is_floating_point():
        fail("eps must be a floating-point tensor [B, D] with D >= 1", f"{eps.dtype} {tuple(eps.shape)}")
    if not weights or len(biases) != len(weights) or len(degrees) != len(weights) + 1:
        counts = (len(weights), len(biases), len(degrees))
        fail("weights, biases, degrees must have L, L and L + 1 entries with L >= 1", counts)
    dim, size = eps.shape[1], eps.shape[1]
    for i, (weight, bias, degree) in enumerate(zip(weights, biases, degrees, strict=False)):
        if weight.dim() != 2 or weight.shape[1] != size or degree.shape != (size,):
            fail(
                f"weights[{i}], degrees[{i}] must be [O, {size}], [{size}]", (tuple(weight.shape), tuple(degree.shape))
            )
        size = weight.shape[0]
        if bias.shape != (size,):
            fail(f"biases[{i}] must be [{size}]", tuple(bias.shape))
    # `in` would compare sizes that torch.compile leaves open as objects
    if (size != dim and size != 2 * dim) or degrees[-1].shape != (size,):
        fail(
            f"weights[-1] must have D = {dim} (mean-only) or 2 D = {2 * dim} (affine) outputs, with a degree each", size
        )
    if scale != "exp" and size == dim:
        fail(f"scale must be exp where weights[-1] has D = {dim} (mean-only) outputs", repr(scale))
    if not torch.compiler.is_compiling() and degrees[0].device.type == "cpu":  # elsewhere the look would synchronise
        if not torch.equal(degrees[0].sort().values, torch.arange(1, dim + 1)):
            fail(f"degrees[0] must be a permutation of 1..{dim}", degrees[0].tolist())
        if not torch.equal(degrees[-1], (degrees[0] - 1).repeat(size // dim)):
            fail("degrees[-1] must be degrees[0] - 1, once per parameter", degrees[-1].tolist())
    if cond is not None and cond.shape != (eps.shape[0], weights[0].shape[0]):
        fail(f"cond must be {[eps.shape[0], weights[0].shape[0]]}", tuple(cond.shape))
    for name, tensors in (("weights", weights), ("biases", biases), ("cond", [] if cond is None else [cond])):
        for tensor in tensors:
            if tensor.dtype != eps.dtype:
                raise TypeError(f"made_inverse: {name} must have the dtype of eps, {eps.dtype}, got {tensor.dtype}")


def _forward(eps: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    *args, backend = args  # type: ignore[assignment]
    row = backends.pick("made_inverse", eps, backend)
    x, log_det = row.namespace.made_inverse(eps, *args)
    if x.device.type == "cpu" and not math.isfinite((x.sum() + log_det.sum()).item()):  # elsewhere it would synchronise
        _refuse_non_finite(eps, x, log_det, args[2][0])
    return x.contiguous(), log_det


def _refuse_non_finite(eps: Tensor, x: Tensor, log_det: Tensor, degrees: Tensor) -> None:
    """Names what the first bad sample owes its NaN or infinity to; a sum that merely overflowed is no offence."""
    bad = ~torch.isfinite(x)
    samples = (bad.any(1) | ~torch.isfinite(log_det)).nonzero()
    if not len(samples):
        return
    b = int(samples[0])
    infinite_eps = (~torch.isfinite(eps[b])).nonzero()
    if len(infinite_eps):
        i = int(infinite_eps[0])
        raise ValueError(f"made_inverse: eps must be finite, got {eps[b, i].item()} at [{b}, {i}]")
    got = f"log_det = {log_det[b].item()} of sample {b}"
    if bad[b].any():  # the first one in the order of the degrees: the others follow from it
        i = int(torch.where(bad[b], degrees, len(degrees) + 1).argmin())
        got = f"x = {x[b, i].item()} at [{b}, {i}]"
    raise ValueError(f"made_inverse: shift and exp(log_scale) must be finite in {x.dtype}, got {got}")


def _forward_fake(eps: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    return eps.new_empty(eps.shape), eps.new_empty(eps.shape[0])


def _backward(grad_x: Tensor, grad_log_det: Tensor, x: Tensor, *args: Any) -> list[Tensor]:
    # the gradient is solved by the specification on every backend: it is rare (an IAF trained through its samples)
    grad_eps, grad_cond, grad_weights, grad_biases = backends.reference.made_inverse_backward(
        grad_x, grad_log_det, x, *args
    )
    return [g.contiguous() for g in (grad_eps, grad_cond, *grad_weights, *grad_biases)]


def _backward_fake(
    grad_x: Tensor, grad_log_det: Tensor, x: Tensor, weights: list[Tensor], biases: list[Tensor], *args: Any
) -> list[Tensor]:
    like = (x.new_empty(x.shape), x.new_empty(x.shape[0], weights[0].shape[0]), *weights, *biases)
    return [t.new_empty(t.shape) for t in like]


class _MadeInverse(torch.autograd.Function):
    """apply(options, eps, cond, *weights, *biases): autograd sees flat tensors, the op sees lists."""

    @staticmethod
    def forward(ctx: Any, options: tuple, eps: Tensor, cond: Tensor | None, *layers: Tensor) -> tuple[Tensor, Tensor]:
        degrees, activation, scale, backend = options
        n = len(layers) // 2
        x, log_det = registry.below_autograd(
            "made_inverse", eps, list(layers[:n]), list(layers[n:]), degrees, cond, activation, scale, backend
        )
        ctx.save_for_backward(x, cond, *layers)
        ctx.degrees, ctx.functions = degrees, (activation, scale)
        return x, log_det

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, cond, *layers = ctx.saved_tensors
        n = len(layers) // 2
        out = registry.below_autograd(
            "made_inverse_backward", *grads, x, layers[:n], layers[n:], ctx.degrees, cond, *ctx.functions
        )
        out = [g if need else None for g, need in zip(out, ctx.needs_input_grad[1:], strict=True)]
        return (None, *registry.once_differentiable("made_inverse", out))


def _autograd(
    eps: Tensor, weights: list[Tensor], biases: list[Tensor], degrees: list[Tensor], cond: Tensor | None, *options: str
) -> tuple[Tensor, Tensor]:
    return _MadeInverse.apply((degrees, *options), eps, cond, *weights, *biases)


_ARGS = "Tensor[] weights, Tensor[] biases, Tensor[] degrees, Tensor? cond, str activation, str scale"
registry.define(f"made_inverse(Tensor eps, {_ARGS}, str backend) -> (Tensor, Tensor)", _forward, _forward_fake)
registry.define(
    f"made_inverse_backward(Tensor grad_x, Tensor grad_log_det, Tensor x, {_ARGS}) -> Tensor[]",
    _backward,
    _backward_fake,
)
registry.autograd("made_inverse", _autograd)
registry.no_vmap("made_inverse", "the rows of eps and cond are samples already")
