"""Gradients as a training loop treats them, for every op: any strides, flat buckets, any thread count."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from cases.deadline import slow_where
from cases.properties import LAYOUTS, expanded, use_isa
from cases.rows import backends_of, is_interpreted, require
from torch import Tensor

from vlae_fast import ops
from vlae_fast.backends import cpu
from vlae_fast.testing import Case, conv_case, linear_case, made_case, made_layers_case, run

CASES = [
    conv_case("B", (3, 4, 6, 5), 8, 3, cond="map"),
    conv_case("A", (3, 4, 6, 5), 8, 5, activation="elu", cond="vector"),
    conv_case("B", (3, 4, 6, 5), 8, 3, activation="gate", cond="map"),
    linear_case(9, 20, 30),
    linear_case(9, 20, 30, adjacency=True, activation="tanh"),
    made_layers_case(5, 4, (12, 9), activation="elu", cond=True),
    made_case(5, 4, (12, 9), activation="elu", cond=True),
]
ROWS = [
    pytest.param(case, backend, marks=[pytest.mark.slow] * (is_interpreted(backend) and "A5x5" in case.name))
    for case in CASES
    for backend in backends_of(case.op)
]
every_row = pytest.mark.parametrize(("case", "backend"), ROWS, ids=lambda v: str(v))


def cotangents(case: Case) -> list[Tensor]:
    return [torch.randn(out.shape) for out in run(case, "reference")[0]]


def results(case: Case, backend: str, grads: list[Tensor]) -> list[Tensor]:
    outs, gradients = run(case, backend, grads)
    return [*outs, *gradients]


def has_kernel(case: Case, backend: str) -> bool:
    """True where the gradients are our own; those of torch's matrix products owe bits to strides and threads."""
    return backend != "reference" and case.op != "made_inverse"


def same_bits(some: list[Tensor], others: list[Tensor]) -> bool:
    return all(a.equal(b) for a, b in zip(some, others, strict=True))


@slow_where(lambda backend, layout, **_: is_interpreted(backend) and layout is not expanded)
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda f: f.__name__)
@every_row
def test_incoming_gradients_of_any_strides(case: Case, backend: str, layout: Callable[[Tensor], Tensor]) -> None:
    require(backend)
    strided = [layout(grad) for grad in cotangents(case)]
    plain = [grad.contiguous() for grad in strided]
    got, expected = results(case, backend, strided), results(case, backend, plain)
    if has_kernel(case, backend):
        assert same_bits(got, expected)
    torch.testing.assert_close(got, expected)


@every_row
def test_gradients_that_are_views_of_one_bucket(case: Case, backend: str) -> None:
    """As DistributedDataParallel keeps them with gradient_as_bucket_view, and accumulates into them."""
    require(backend)
    grads = cotangents(case)
    expected = run(case, backend, grads)[1]
    tensors = {
        name: [leaf(v) for v in value] if isinstance(value, list) else None if value is None else leaf(value)
        for name, value in case.tensors.items()
    }
    flat = [t for value in tensors.values() for t in (value if isinstance(value, list) else [value])]
    leaves = [t for t in flat if t is not None and t.requires_grad]
    bucket = torch.zeros(sum(t.numel() for t in leaves) + 1)  # the last number belongs to nobody
    at = 0
    for t in leaves:
        t.grad = bucket[at : at + t.numel()].view(t.shape)
        at += t.numel()
    for _ in range(2):
        out = getattr(ops, case.op)(**tensors, **case.options, backend=backend)
        torch.autograd.backward(out if isinstance(out, tuple) else [out], grads)
    assert bucket[-1] == 0
    torch.testing.assert_close(bucket[:-1], 2 * torch.cat([grad.flatten() for grad in expected]))


def leaf(tensor: Tensor) -> Tensor:
    """A parameter of its own: contiguous, as a bucket asks for."""
    return tensor.detach().contiguous().clone().requires_grad_(tensor.is_floating_point())


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("isa", cpu.isas() or ["absent"])
@pytest.mark.parametrize(
    "case",
    [
        conv_case("B", (5, 12, 28, 28), 12, 3, activation="elu"),
        conv_case("B", (1, 33, 40, 41), 64, 3, activation="gate", cond="vector"),
        conv_case("A", (7, 1, 28, 28), 64, 7, cond="map"),
        conv_case("B", (4, 6, 20, 20), 12, 5, image_channels=3, activation="relu"),
        linear_case(300, 200, 170, activation="elu"),
        linear_case(61, 40, 277, adjacency=True, activation="relu"),
        made_layers_case(300, 12, (130, 90), activation="tanh", cond=True),
        made_case(150, 12, (130, 90), activation="tanh", cond=True),
    ],
    ids=str,
)
def test_the_same_bits_every_time_and_for_any_thread_count(
    case: Case, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    require("cpu")
    use_isa(isa, monkeypatch)
    grads = cotangents(case)
    with threads(1):
        expected = results(case, "cpu", grads)
        assert same_bits(results(case, "cpu", grads), expected)
    for count in (2, 3, 5):
        with threads(count):
            got = results(case, "cpu", grads)
        compared = len(expected) if has_kernel(case, "cpu") else len(grads)  # the outputs come first
        assert same_bits(got[:compared], expected[:compared]), f"{count} threads"
