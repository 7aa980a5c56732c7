"""Contract of `made_inverse`: the x that an autoregressive transform, or several in a row, map to eps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import backends, reference
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

    Several steps in one call: the x of a step, its dimensions reversed, is the eps of the next; x is that of the last.
    Other libraries write ``eps = shift(x) + slope(s(x)) * x``, of a slope that is at least 0.001: ``scale`` names it.

    Args:
        eps: ``[B, D]``, floating point.
        weights, biases: of the L masked layers, ``[O, I]`` and ``[O]``. The last has 2 D outputs (shift, then
            log_scale: affine) or D outputs (shift: mean-only, log_scale = 0). Of S steps: S L layers, those of the
            step that comes first in front; all steps have the degrees of one.
        degrees: L + 1 integer tensors: of the inputs (a permutation of 1..D), the hidden layers, the outputs. The
            outputs that belong to input i have its degree - 1.
        cond: ``[B, S H]`` or None, H columns for every step, added to its first layer's pre-activation (context).
        activation: of the hidden layers: ``relu``, ``elu`` (alpha 1), ``tanh``.
        scale: ``exp``, the transform above; or a slope of the other one, s in log_scale's place (never mean-only):
            ``clipped_exp`` (``exp(s / (1 + |s| / log(1000)))``, as zuko's), ``softplus`` (``softplus(s) + 0.001``, as
            nflows'), ``sigmoid`` (``sigmoid(s + 2) + 0.001``, as normflows').
        backend: ``auto`` or a name of `vlae_fast.backends.report`.

    Returns:
        x ``[B, D]`` and ``log|det d eps/d x|`` ``[B]`` in nats. Both are differentiable; the gradient is
        computed by the reference, whichever backend drew x: its last bits may depend on the number of threads.
        Rows are independent: where eps, cond, a shift or a scale of a row is not finite, its x and log-determinant are
        NaN or infinite, and the other rows are what they are without it.

    Raises:
        ValueError, TypeError: an argument breaks a rule above.
        RuntimeError: the named backend cannot run this.

    Equivalent to::

        for made in steps:
            x = torch.zeros_like(eps)
            for _ in range(D):
                shift, log_scale = made(x).chunk(2, 1)
                x = shift + log_scale.exp() * eps
            eps = x.flip(1)

    Source: Papamakarios et al. 2017, arXiv 1705.07057, eq. 4.
    """
    _check(eps, weights, biases, degrees, cond, activation, scale)
    xs, log_det = torch.ops.vlae_fast.made_inverse(
        eps, list(weights), list(biases), list(degrees), cond, activation, scale, backend
    )
    return xs[-1], log_det


def _check(
    eps: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    degrees: Sequence[Tensor],
    cond: Tensor | None,
    activation: str,
    scale: str,
) -> None:
    if activation not in ACTIVATIONS:
        _fail(f"activation must be one of {', '.join(ACTIVATIONS)}", repr(activation))
    if scale not in SCALES:
        _fail(f"scale must be one of {', '.join(SCALES)}", repr(scale))
    if eps.dim() != 2 or eps.shape[1] < 1 or not eps.is_floating_point():
        _fail("eps must be a floating-point tensor [B, D] with D >= 1", f"{eps.dtype} {tuple(eps.shape)}")
    n_layers, dim = len(degrees) - 1, eps.shape[1]
    if n_layers < 1 or not weights or len(weights) % n_layers or len(biases) != len(weights):
        counts = (len(weights), len(biases), len(degrees))
        _fail("weights, biases, degrees must have S L, S L and L + 1 entries with S >= 1, L >= 1", counts)
    _check_degrees(degrees, dim)
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        inputs, outputs = (degrees[i % n_layers + k].shape[0] for k in (0, 1))
        if weight.shape != (outputs, inputs) or bias.shape != (outputs,):
            rule = f"weights[{i}], biases[{i}] must be [{outputs}, {inputs}], [{outputs}], as degrees has it"
            _fail(rule, (tuple(weight.shape), tuple(bias.shape)))
    if scale != "exp" and degrees[-1].shape[0] == dim:
        _fail(f"scale must be exp where there are D = {dim} (mean-only) outputs", repr(scale))
    columns = len(weights) // n_layers * degrees[1].shape[0]
    if cond is not None and cond.shape != (eps.shape[0], columns):
        _fail(f"cond must be {[eps.shape[0], columns]}", tuple(cond.shape))
    for name, tensors in (("weights", weights), ("biases", biases), ("cond", [] if cond is None else [cond])):
        for tensor in tensors:
            if tensor.dtype != eps.dtype:
                raise TypeError(f"made_inverse: {name} must have the dtype of eps, {eps.dtype}, got {tensor.dtype}")


def _check_degrees(degrees: Sequence[Tensor], dim: int) -> None:
    for i, degree in enumerate(degrees):
        if degree.dim() != 1:
            _fail(f"degrees[{i}] must be [units of layer {i}]", tuple(degree.shape))
    inputs, outputs = degrees[0], degrees[-1]
    if inputs.shape[0] != dim:
        _fail(f"degrees[0] must be [D] = [{dim}]", tuple(inputs.shape))
    size = outputs.shape[0]
    if size != dim and size != 2 * dim:  # `in` would compare sizes that torch.compile leaves open as objects
        _fail(f"degrees[-1] must have D = {dim} (mean-only) or 2 D = {2 * dim} (affine) entries", size)
    if not torch.compiler.is_compiling() and inputs.device.type == "cpu":  # elsewhere the look would synchronise
        if not torch.equal(inputs.sort().values, torch.arange(1, dim + 1, device="cpu")):
            _fail(f"degrees[0] must be a permutation of 1..{dim}", inputs.tolist())
        if not torch.equal(outputs, (inputs - 1).repeat(size // dim)):
            _fail("degrees[-1] must be degrees[0] - 1, once per parameter", outputs.tolist())


def _fail(rule: str, got: object) -> None:
    raise ValueError(f"made_inverse: {rule}, got {got}")


def _forward(eps: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    *args, backend = args  # type: ignore[assignment]
    row = backends.pick("made_inverse", eps, backend)
    xs, log_det = row.namespace.made_inverse(eps, *args)
    return xs.contiguous(), log_det


def _forward_fake(
    eps: Tensor, weights: list[Tensor], biases: list[Tensor], degrees: list[Tensor], *args: Any
) -> tuple[Tensor, Tensor]:
    n_steps = len(weights) // (len(degrees) - 1)
    return eps.new_empty(n_steps, *eps.shape), eps.new_empty(eps.shape[0])


def _backward(grad_xs: Tensor, grad_log_det: Tensor, xs: Tensor, *args: Any) -> list[Tensor]:
    # the gradient is solved by the specification on every backend: it is rare (an IAF trained through its samples)
    grad_eps, grad_cond, grad_weights, grad_biases = reference.made_inverse_backward(grad_xs, grad_log_det, xs, *args)
    return [g.contiguous() for g in (grad_eps, grad_cond, *grad_weights, *grad_biases)]


def _backward_fake(
    grad_xs: Tensor,
    grad_log_det: Tensor,
    xs: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    degrees: list[Tensor],
    *args: Any,
) -> list[Tensor]:
    n_steps, *shape = xs.shape
    grads = (xs.new_empty(shape), xs.new_empty(shape[0], n_steps * weights[0].shape[0]))
    return [*grads, *(t.new_empty(t.shape) for t in (*weights, *biases))]


def _versions(degrees: Sequence[Tensor]) -> list[int | None]:
    """Saved for backward they could not be of inference mode, where a flow's degrees may have come to their device."""
    return [None if d.is_inference() else d._version for d in degrees]


class _MadeInverse(torch.autograd.Function):
    """apply(options, eps, cond, *weights, *biases): autograd sees flat tensors, the op sees lists."""

    @staticmethod
    def forward(ctx: Any, options: tuple, eps: Tensor, cond: Tensor | None, *layers: Tensor) -> tuple[Tensor, Tensor]:
        degrees, activation, scale, backend = options
        n = len(layers) // 2
        xs, log_det = registry.below_autograd(
            "made_inverse", eps, list(layers[:n]), list(layers[n:]), degrees, cond, activation, scale, backend
        )
        ctx.save_for_backward(xs, cond, *layers)
        ctx.degrees, ctx.versions, ctx.functions = degrees, _versions(degrees), (activation, scale)
        return xs, log_det

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        xs, cond, *layers = ctx.saved_tensors
        n = len(layers) // 2
        for i, (before, now) in enumerate(zip(ctx.versions, _versions(ctx.degrees), strict=True)):
            if before != now:
                rule = f"degrees[{i}] must be as it was in forward"
                raise RuntimeError(f"made_inverse: {rule}, got one that was written to in place")
        out = registry.below_autograd(
            "made_inverse_backward", *grads, xs, layers[:n], layers[n:], ctx.degrees, cond, *ctx.functions
        )
        out = [g if need else None for g, need in zip(out, ctx.needs_input_grad[1:], strict=True)]
        return (None, *registry.once_differentiable("made_inverse", out))


def _autograd(
    eps: Tensor, weights: list[Tensor], biases: list[Tensor], degrees: list[Tensor], cond: Tensor | None, *options: str
) -> tuple[Tensor, Tensor]:
    return _MadeInverse.apply((degrees, *options), eps, cond, *weights, *biases)


_ARGS = "Tensor[] weights, Tensor[] biases, Tensor[] degrees, Tensor? cond, str activation, str scale"
# x is [S, B, D], that of every step: the gradient wants them all
registry.define(f"made_inverse(Tensor eps, {_ARGS}, str backend) -> (Tensor, Tensor)", _forward, _forward_fake)
registry.define(
    f"made_inverse_backward(Tensor grad_xs, Tensor grad_log_det, Tensor xs, {_ARGS}) -> Tensor[]",
    _backward,
    _backward_fake,
)
registry.autograd("made_inverse", _autograd)
registry.no_vmap("made_inverse", "the rows of eps and cond are samples already")
