"""Derivatives of every kind and by every route: second ones, forward mode, torch.func, batches of gradients, NaN."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
import torch
import torch.autograd.forward_ad as fwd
import torch.nn.functional as F
from cases.rows import require
from torch import Tensor

from vlae_fast import masks, ops


class Subject(NamedTuple):
    """An op as a function of its tensors, and the same written out in plain PyTorch."""

    op: Callable[..., Tensor]
    plain: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]

    def to(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        return tuple(t.to(dtype) for t in self.inputs)


def activated(pre: Tensor, activation: str) -> Tensor:
    if activation == "gate":
        a, b = pre.chunk(2, 1)
        return a.tanh() * b.sigmoid()
    return {"none": pre, "relu": pre.relu(), "elu": F.elu(pre), "tanh": pre.tanh()}[activation]


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def conv(activation: str) -> Subject:
    inputs = (normal(2, 3, 4, 5, seed=0), normal(4, 3, 3, 3, seed=1) / 4, normal(4, seed=2), normal(2, 4, seed=3))
    mask = masks.conv_mask("B", (4, 3, 3, 3))

    def op(x: Tensor, w: Tensor, b: Tensor, cond: Tensor, backend: str = "auto") -> Tensor:
        return ops.masked_conv(x, w, b, cond, mask_type="B", activation=activation, backend=backend)

    def plain(x: Tensor, w: Tensor, b: Tensor, cond: Tensor) -> Tensor:
        return activated(F.conv2d(x, w * mask, b, padding=1) + cond[:, :, None, None], activation)

    return Subject(op, plain, inputs)


def linear(activation: str) -> Subject:
    inputs = (normal(3, 5, seed=0), normal(6, 5, seed=1) / 2, normal(6, seed=2))
    degrees = {"in_degrees": torch.arange(1, 6), "out_degrees": torch.arange(6)}
    mask = masks.linear_mask(**degrees)

    def op(x: Tensor, w: Tensor, b: Tensor, backend: str = "auto") -> Tensor:
        return ops.masked_linear(x, w, b, **degrees, activation=activation, backend=backend)

    return Subject(op, lambda x, w, b: activated(F.linear(x, w * mask, b), activation), inputs)


def network(activation: str) -> Subject:
    """Three layers of a MADE with a condition."""
    degrees = masks.made_degrees(3, (5, 4), 2)
    live = [masks.linear_mask(i, o) for i, o in pairwise(degrees)]
    weights = [normal(*mask.shape, seed=i) / 2 for i, mask in enumerate(live)]
    biases = [normal(len(mask), seed=9 + i) for i, mask in enumerate(live)]

    def op(x: Tensor, *flat: Tensor, backend: str = "auto") -> Tensor:
        *own, cond = flat
        return ops.made(x, own[:3], own[3:], degrees, cond, activation=activation, backend=backend)

    def plain(x: Tensor, *flat: Tensor) -> Tensor:
        x = activated(F.linear(x, flat[0] * live[0], flat[3]) + flat[6], activation)
        x = activated(F.linear(x, flat[1] * live[1], flat[4]), activation)
        return F.linear(x, flat[2] * live[2], flat[5])

    return Subject(op, plain, (normal(2, 3, seed=20), *weights, *biases, normal(2, 5, seed=21)))


def inverse(activation: str, scale: str = "exp", steps: int = 2) -> Subject:
    """x and log_det of two steps of an affine flow of 3 dimensions, as one tensor."""
    degrees = masks.made_degrees(3, (5,), 2)
    live = [masks.linear_mask(i, o) for i, o in pairwise(degrees)]
    shapes = [(5, 3), (6, 5)] * steps
    weights = [normal(*shape, seed=i) / 3 for i, shape in enumerate(shapes)]
    biases = [normal(shape[0], seed=9 + i) / 3 for i, shape in enumerate(shapes)]
    n = len(weights)

    def op(eps: Tensor, *flat: Tensor, backend: str = "auto") -> Tensor:
        x, log_det = ops.made_inverse(
            eps, flat[:n], flat[n:], degrees, activation=activation, scale=scale, backend=backend
        )
        return torch.cat([x, log_det[:, None]], 1)

    def plain(eps: Tensor, *flat: Tensor) -> Tensor:
        log_det = torch.zeros_like(eps[:, 0])
        for s in range(steps):
            x = torch.zeros_like(eps)
            for _ in range(3):
                hidden = activated(F.linear(x, flat[2 * s] * live[0], flat[n + 2 * s]), activation)
                shift, raw = F.linear(hidden, flat[2 * s + 1] * live[1], flat[n + 2 * s + 1]).chunk(2, 1)
                if scale == "exp":
                    x, log = shift + raw.exp() * eps, -raw
                else:
                    slope = F.softplus(raw) + 1e-3
                    x, log = (eps - shift) / slope, slope.log()
            log_det = log_det + log.sum(1)
            eps = x.flip(1)
        return torch.cat([x, log_det[:, None]], 1)

    return Subject(op, plain, (normal(2, 3, seed=20), *weights, *biases))


SUBJECTS: dict[str, Callable[[], Subject]] = {
    **{f"masked_conv, {act}": lambda act=act: conv(act) for act in ("none", "relu", "elu", "gate")},
    **{f"masked_linear, {act}": lambda act=act: linear(act) for act in ("none", "relu", "elu", "tanh")},
    **{f"made, {act}": lambda act=act: network(act) for act in ("relu", "elu", "tanh")},
    **{f"made_inverse, {act}": lambda act=act: inverse(act) for act in ("relu", "elu", "tanh")},
    "made_inverse, softplus": lambda: inverse("tanh", "softplus"),
}
CPU_OPS = [name for name in SUBJECTS if not name.startswith("made_inverse")]


@pytest.fixture(params=SUBJECTS)
def subject(request: pytest.FixtureRequest) -> Subject:
    return SUBJECTS[request.param]()


def leaves(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(t.detach().clone().requires_grad_() for t in inputs)


def test_the_plain_one_is_the_op(subject: Subject) -> None:
    torch.testing.assert_close(subject.op(*subject.inputs), subject.plain(*subject.inputs))


def test_gradcheck_and_gradgradcheck(subject: Subject) -> None:
    inputs = leaves(subject.inputs)
    assert torch.autograd.gradcheck(subject.op, inputs, fast_mode=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(subject.op, inputs, fast_mode=True)


def penalty(function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Gradients of a loss with a gradient penalty, as `torch.autograd.grad` gives them."""
    inputs = leaves(inputs)
    y = function(*inputs).square().mean()
    (g,) = torch.autograd.grad(y, inputs[0], create_graph=True)
    return torch.autograd.grad(y + 10 * (g.norm() - 1) ** 2, inputs)


def penalty_backward(function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
    """The same by ``backward(inputs=...)``."""
    inputs = leaves(inputs)
    y = function(*inputs).square().mean()
    (g,) = torch.autograd.grad(y, inputs[0], create_graph=True)
    (y + 10 * (g.norm() - 1) ** 2).backward(inputs=list(inputs))
    return tuple(t.grad for t in inputs)


def hessian(function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (torch.autograd.functional.hessian(lambda t: function(t, *inputs[1:]).square().sum(), inputs[0]),)


def hvp(function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    def loss(t: Tensor) -> Tensor:
        return function(t, *inputs[1:]).square().sum()

    return (torch.autograd.functional.hvp(loss, inputs[0], torch.ones_like(inputs[0]))[1],)


@pytest.mark.parametrize("route", [penalty, penalty_backward, hessian, hvp])
def test_second_derivatives_by_every_route(subject: Subject, route: Any) -> None:
    for got, want in zip(route(subject.op, subject.inputs), route(subject.plain, subject.inputs), strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("route", [penalty, hessian])
@pytest.mark.parametrize("name", CPU_OPS)
def test_second_derivatives_of_the_kernels(name: str, route: Any) -> None:
    """In float32 the first derivatives are those of the C++ kernels; a second one asks for both again."""
    subject = SUBJECTS[name]()
    require("cpu")
    inputs = subject.to(torch.float32)
    want = route(subject.plain, subject.inputs)
    for got, expected in zip(route(lambda *t: subject.op(*t, backend="cpu"), inputs), want, strict=True):
        torch.testing.assert_close(got.double(), expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


def tangent(function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> Tensor:
    with fwd.dual_level():
        duals = [fwd.make_dual(t, torch.ones_like(t)) for t in inputs]
        return fwd.unpack_dual(function(*duals)).tangent


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad])
def test_forward_mode_under_every_grad_mode(subject: Subject, mode: Any) -> None:
    with mode():
        got, want = tangent(subject.op, subject.inputs), tangent(subject.plain, subject.inputs)
    torch.testing.assert_close(got, want)


def test_a_call_beside_a_dual_level_is_the_call(subject: Subject) -> None:
    """Without a tangent nothing changes: the kernels run."""
    want = subject.op(*subject.to(torch.float32))
    with fwd.dual_level():
        assert subject.op(*subject.to(torch.float32)).equal(want)


@pytest.mark.parametrize(
    "transform",
    [
        lambda f, t: torch.func.grad(lambda x: f(x, *t[1:]).square().sum())(t[0]),
        lambda f, t: torch.func.jacrev(lambda x: f(x, *t[1:]))(t[0]),
        lambda f, t: torch.func.jacfwd(lambda x: f(x, *t[1:]))(t[0]),
        lambda f, t: torch.func.hessian(lambda w: f(t[0], w, *t[2:]).square().sum())(t[1]),
        lambda f, t: torch.vmap(lambda w: f(t[0], w, *t[2:]))(torch.stack([t[1], 2 * t[1]])),
        lambda f, t: torch.autograd.functional.jacobian(lambda x: f(x, *t[1:]), t[0], vectorize=True),
    ],
    ids=["grad", "jacrev", "jacfwd", "hessian", "vmap", "jacobian"],
)
def test_torch_func(subject: Subject, transform: Any) -> None:
    torch.testing.assert_close(transform(subject.op, subject.inputs), transform(subject.plain, subject.inputs))


def test_gradients_of_each_sample(subject: Subject) -> None:
    def of(function: Callable[..., Tensor]) -> Tensor:
        def loss(weight: Tensor, row: Tensor, cond: tuple[Tensor, ...]) -> Tensor:
            return function(row[None], weight, *subject.inputs[2:3], *(c[None] for c in cond)).square().sum()

        cond = subject.inputs[3:] if subject.op.__qualname__.startswith("conv") else ()
        return torch.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(subject.inputs[1], subject.inputs[0], cond)

    if subject.op.__qualname__.startswith(("inverse", "network")):
        rest = subject.inputs[2:]
        if subject.op.__qualname__.startswith("network"):
            rest = (*rest[:-1], rest[-1][:1])  # a condition for one sample

        def of(function: Callable[..., Tensor]) -> Tensor:  # type: ignore[no-redef]
            def loss(weight: Tensor, row: Tensor) -> Tensor:
                return function(row[None], weight, *rest).square().sum()

            return torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(subject.inputs[1], subject.inputs[0])

    torch.testing.assert_close(of(subject.op), of(subject.plain))


def test_a_named_backend_says_that_it_cannot(subject: Subject) -> None:
    name = subject.op.__qualname__.partition(".")[0]
    op = "made" if name == "network" else f"(masked_|made_){name}"
    message = rf"^{op}: torch\.func and forward-mode differentiation need .*got 'cpu'"
    with pytest.raises(RuntimeError, match=message):
        torch.func.grad(lambda x: subject.op(x, *subject.inputs[1:], backend="cpu").sum())(subject.inputs[0])
    with pytest.raises(RuntimeError, match=message):
        tangent(lambda *t: subject.op(*t, backend="cpu"), subject.inputs)


@pytest.mark.parametrize("name", CPU_OPS)
@pytest.mark.parametrize("backend", ["reference", "cpu", "triton"])
def test_nan_in_is_nan_out_and_in_the_gradient(name: str, backend: str) -> None:
    """As a GradScaler needs it: a step whose output was NaN must not look like a good one."""
    subject = SUBJECTS[name]()
    require(backend)
    inputs = leaves(subject.to(torch.float32))
    with torch.no_grad():
        inputs[0][1] = float("nan")
    y = subject.op(*inputs, backend=backend)
    assert y[0].isfinite().all() and y[1].isnan().any()
    grads = torch.autograd.grad(y.square().sum(), inputs)
    assert grads[0][0].isfinite().all() and grads[0][1].isnan().any()
    assert all(grad.isnan().any() for grad in grads[1:])
