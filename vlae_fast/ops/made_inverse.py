"""Contract of `made_inverse`: the x that an autoregressive transform, or several in a row, map to eps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, NoReturn

import torch
from torch import Tensor

from .. import activations, backends, reference
from ..masks import check_made_degrees
from ..reference.arguments import Layers, Transform
from . import registry

ACTIVATIONS = activations.names("made_inverse")
SCALES = ("exp", "clipped_exp", "softplus", "sigmoid", "exp_slope")


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
    Other code writes ``eps = shift(x) + slope(s(x)) * x``; ``scale`` names the slope.

    Args:
        eps: ``[B, D]``, floating point.
        weights, biases: the L masked layers, ``[O, I]`` and ``[O]``. The last has 2 D outputs (shift, then
            log_scale: affine) or D outputs (shift: mean-only, log_scale = 0). Of S steps: S L layers, those of the
            step that comes first in front; all steps have the degrees of one.
        degrees: L + 1 integer tensors: of the inputs (a permutation of 1..D), the hidden layers, the outputs. The
            outputs that belong to input i have its degree - 1.
        cond: ``[B, S H]`` or None, H columns for every step, added to its first layer's pre-activation (context).
        activation: of the hidden layers: ``relu``, ``elu`` (alpha 1), ``tanh``.
        scale: ``exp``, the transform above; or a slope of the other one, s in log_scale's place (never mean-only):
            ``clipped_exp`` (``exp(s / (1 + |s| / log(1000)))``, as zuko's), ``softplus`` (``softplus(s) + 0.001``, as
            nflows'), ``sigmoid`` (``sigmoid(s + 2) + 0.001``, as normflows'), ``exp_slope`` (``exp(s)``, as pyro's).
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
    layers, transform = Layers(list(weights), list(biases), list(degrees), cond), Transform(activation, scale)
    _check(eps, layers, transform)
    tensors = (eps, cond, *layers.weights, *layers.biases)
    if registry.only_plain_torch_follows("made_inverse", backend, *tensors):
        xs, log_det = _in_turn(reference, 1, eps, layers, transform)
        return xs[-1], log_det
    xs, log_det = torch.ops.vlae_fast.made_inverse(eps, *layers, *transform, backend)
    return xs[-1], log_det


def _check(eps: Tensor, layers: Layers, transform: Transform) -> None:
    if transform.scale not in SCALES:
        fail("made_inverse", f"scale must be one of {', '.join(SCALES)}", repr(transform.scale))
    check_layers("made_inverse", "eps", eps, layers, transform.activation, {1: "mean-only", 2: "affine"})
    dim, outputs = eps.shape[1], layers.degrees[-1].shape[0]
    if transform.scale != "exp" and outputs == dim:
        fail("made_inverse", f"scale must be exp where there are D = {dim} (mean-only) outputs", repr(transform.scale))


def check_layers(
    op: str, name: str, x: Tensor, layers: Layers, activation: str, outputs_per_dim: Mapping[int, str]
) -> None:
    """Raises ValueError or TypeError in the name of `op` unless the layers fit x ``[B, D]``, which it calls `name`.

    outputs_per_dim: how many outputs a dimension may have, and what that is called.
    """
    _check_counts(op, name, x, layers, activation)
    degrees, dim = layers.degrees, x.shape[1]
    if degrees[0].shape[0] != dim:
        fail(op, f"degrees[0] must be [D] = [{dim}]", tuple(degrees[0].shape))
    size = degrees[-1].shape[0]
    if all(
        size != n * dim for n in outputs_per_dim
    ):  # `in` would compare sizes that torch.compile leaves open as objects
        words = (f"{'' if n == 1 else f'{n} '}D = {n * dim} ({what})" for n, what in outputs_per_dim.items())
        fail(op, f"degrees[-1] must have {' or '.join(words)} entries", size)
    if not torch.compiler.is_compiling() and degrees[0].device.type == "cpu":  # elsewhere the look would synchronise
        check_made_degrees(degrees[0], degrees[-1])
    _check_shapes(op, name, x, layers)


def check_network(op: str, name: str, x: Tensor, layers: Layers, activation: str, *, autocasts: bool = False) -> None:
    """As `check_layers`, whatever the numbers of inputs and outputs. autocasts: autocast will make dtypes one."""
    _check_counts(op, name, x, layers, activation)
    _check_shapes(op, name, x, layers, autocasts)


def _check_counts(op: str, name: str, x: Tensor, layers: Layers, activation: str) -> None:
    weights, biases, degrees, _ = layers
    activations.check(op, op, activation)
    if x.dim() != 2 or x.shape[1] < 1 or not x.is_floating_point():
        fail(op, f"{name} must be a floating-point tensor [B, D] with D >= 1", f"{x.dtype} {tuple(x.shape)}")
    n_layers = len(degrees) - 1
    if n_layers < 1 or not weights or len(weights) % n_layers or len(biases) != len(weights):
        counts = (len(weights), len(biases), len(degrees))
        fail(op, "weights, biases, degrees must have S L, S L and L + 1 entries with S >= 1, L >= 1", counts)
    for i, degree in enumerate(degrees):
        if degree.dim() != 1:
            fail(op, f"degrees[{i}] must be [units of layer {i}]", tuple(degree.shape))
        if degree.is_floating_point():
            fail(op, f"degrees[{i}] must be integers", degree.dtype)


def _check_shapes(op: str, name: str, x: Tensor, layers: Layers, autocasts: bool = False) -> None:
    weights, biases, degrees, cond = layers
    n_layers, units = len(degrees) - 1, [degree.shape[0] for degree in degrees]
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        inputs, outputs = units[i % n_layers], units[i % n_layers + 1]
        if weight.shape != (outputs, inputs) or bias.shape != (outputs,):
            rule = f"weights[{i}], biases[{i}] must be [{outputs}, {inputs}], [{outputs}], as degrees has it"
            fail(op, rule, (tuple(weight.shape), tuple(bias.shape)))
    columns = len(weights) // n_layers * units[1]
    if cond is not None and cond.shape != (x.shape[0], columns):
        fail(op, f"cond must be {[x.shape[0], columns]}", tuple(cond.shape))
    dtype = x.dtype
    for argument, tensors in (("weights", weights), ("biases", biases), ("cond", () if cond is None else (cond,))):
        for tensor in tensors:
            if tensor.dtype != dtype and not (autocasts and torch.is_autocast_enabled(x.device.type)):
                raise TypeError(f"{op}: {argument} must have the dtype of {name}, {dtype}, got {tensor.dtype}")


def fail(op: str, rule: str, got: object) -> NoReturn:
    raise ValueError(f"{op}: {rule}, got {got}")


def _split(args: Sequence[Any]) -> tuple[Layers, Transform]:
    """The arguments of the op between its tensors and its backend, as records."""
    return Layers(*args[:4]), Transform(*args[4:6])


def _forward(eps: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    layers, transform = _split(args)
    row = backends.pick("made_inverse", eps, args[-1])
    xs, log_det = _in_turn(row.namespace, row.steps_at_once(len(layers.degrees) - 1), eps, layers, transform)
    return xs.contiguous(), log_det


def _in_turn(namespace: Any, at_once: int, eps: Tensor, layers: Layers, transform: Transform) -> tuple[Tensor, Tensor]:
    """x of every step, ``[S, B, D]``, and log_det: so many steps a call, each given the x before it reversed."""
    first, *others = layers.steps(at_once)
    xs, log_det = namespace.made_inverse(eps, first, transform)
    shares = [xs]
    for share in others:
        xs, of_share = namespace.made_inverse(xs[-1].flip(1), share, transform)
        shares.append(xs)
        log_det = log_det + of_share
    return torch.cat(shares) if others else xs, log_det


def _forward_fake(
    eps: Tensor, weights: list[Tensor], biases: list[Tensor], degrees: list[Tensor], *args: Any
) -> tuple[Tensor, Tensor]:
    n_steps = len(weights) // (len(degrees) - 1)
    return eps.new_empty(n_steps, *eps.shape), eps.new_empty(eps.shape[0])


def _backward(grad_xs: Tensor, grad_log_det: Tensor, xs: Tensor, *args: Any) -> list[Tensor]:
    # the gradient is solved by the specification on every backend: it is rare (an IAF trained through its samples)
    layers, transform = _split(args)
    grad_eps, found = torch.zeros_like(xs[0]), []
    for s, step in reversed(list(enumerate(layers.steps()))):
        grad_x = grad_xs[s] + grad_eps.flip(1)  # this step's x, reversed, was the eps of the step behind it
        grad_eps, *others = reference.made_inverse_backward(grad_x, grad_log_det, xs[s], step, transform)
        found.append(others)
    conds, weights, biases = zip(*reversed(found), strict=True)
    return [g.contiguous() for g in (grad_eps, torch.cat(conds, 1), *chain(*weights), *chain(*biases))]


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


def versions(degrees: Sequence[Tensor]) -> list[int | None]:
    """Saved for backward they could not be of inference mode, where a flow's degrees may have come to their device."""
    return [None if d.is_inference() else d._version for d in degrees]


def check_versions(op: str, degrees: Sequence[Tensor], before: Sequence[int | None]) -> None:
    """Raises RuntimeError in the name of `op` unless these are the versions of the degrees still."""
    for i, (version, now) in enumerate(zip(before, versions(degrees), strict=True)):
        if version != now:
            rule = f"degrees[{i}] must be as it was in forward"
            raise RuntimeError(f"{op}: {rule}, got one that was written to in place")


class _MadeInverse(torch.autograd.Function):
    """apply(options, eps, cond, *weights, *biases): autograd sees flat tensors, the op sees lists."""

    @staticmethod
    def forward(ctx: Any, options: tuple, eps: Tensor, cond: Tensor | None, *flat: Tensor) -> tuple[Tensor, Tensor]:
        degrees, transform, backend = options
        layers = _layers(flat, degrees, cond)
        xs, log_det = registry.below_autograd("made_inverse", eps, *layers, *transform, backend)
        ctx.save_for_backward(xs, cond, *flat)
        ctx.degrees, ctx.versions, ctx.transform = degrees, versions(degrees), transform
        return xs, log_det

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        xs, cond, *flat = ctx.saved_tensors
        check_versions("made_inverse", ctx.degrees, ctx.versions)
        layers = _layers(flat, ctx.degrees, cond)
        if registry.only_plain_torch_differentiates(*grads):
            out = _backward(*grads, xs, *layers, *ctx.transform)
        else:
            out = registry.below_autograd("made_inverse_backward", *grads, xs, *layers, *ctx.transform)
        return None, *(g if need else None for g, need in zip(out, ctx.needs_input_grad[1:], strict=True))


def _layers(flat: Sequence[Tensor], degrees: list[Tensor], cond: Tensor | None) -> Layers:
    n = len(flat) // 2
    return Layers(list(flat[:n]), list(flat[n:]), degrees, cond)


def _autograd(eps: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    layers, transform = _split(args)
    options = (layers.degrees, transform, args[-1])
    return _MadeInverse.apply(options, eps, layers.cond, *layers.weights, *layers.biases)


_ARGS = "Tensor[] weights, Tensor[] biases, Tensor[] degrees, Tensor? cond, str activation, str scale"
# x is [S, B, D], the x of every step: the gradient needs them all
registry.define(f"made_inverse(Tensor eps, {_ARGS}, str backend) -> (Tensor, Tensor)", _forward, _forward_fake)
registry.define(
    f"made_inverse_backward(Tensor grad_xs, Tensor grad_log_det, Tensor xs, {_ARGS}) -> Tensor[]",
    _backward,
    _backward_fake,
)
registry.autograd("made_inverse", _autograd)
