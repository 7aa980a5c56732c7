"""Plans of launches that are kept: a call is what it would be without them, whatever came before it."""

import gc
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from cases.rows import require
from torch import Tensor

import vlae_fast as vf
from vlae_fast import kept
from vlae_fast.ops import made, masked_conv, masked_linear


@pytest.fixture(autouse=True)
def _triton() -> None:
    require("triton", "cuda" if torch.cuda.is_available() else "cpu")


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def numbers(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def conv(
    *,
    grads: str = "xwb",
    dtype: torch.dtype = torch.float32,
    size: tuple[int, int, int] = (2, 3, 5),
    channels_last: bool = False,
    cond: int = 0,
    bias: bool = True,
    **options: Any,
) -> list[Tensor]:
    """Output and gradients of a convolution, all but one thing of which is the same."""
    images, height, width = size
    x, weight = numbers(images, 6, height, width, dtype=dtype), numbers(12, 6, 3, 3, dtype=dtype, seed=1)
    if channels_last:
        weight = weight.contiguous(memory_format=torch.channels_last)
    shape = {0: None, 2: (images, 12), 4: (images, 12, height, width)}[cond]
    tensors = {"x": x, "w": weight, "b": numbers(12, dtype=dtype, seed=2) if bias else None}
    tensors["c"] = None if shape is None else numbers(*shape, dtype=dtype, seed=3)
    wanted = [t.requires_grad_() for name, t in tensors.items() if name in grads and t is not None]
    out = masked_conv(*tensors.values(), **{"mask_type": "B", "activation": "gate", "backend": "triton"} | options)
    return [out, *(torch.autograd.grad(out.square().sum(), wanted) if wanted else ())]


def linear(
    *, rows: int = 4, activation: str = "relu", grads: str = "xwb", adjacency: bool = False, bias: bool = True
) -> list[Tensor]:
    tensors = {"x": numbers(rows, 20), "w": numbers(24, 20, seed=1), "b": numbers(24, seed=2) if bias else None}
    degrees = {"in_degrees": torch.arange(20, device=DEVICE), "out_degrees": torch.arange(24, device=DEVICE)}
    mask = {"adjacency": vf.masks.linear_mask(*degrees.values())} if adjacency else degrees
    wanted = [t.requires_grad_() for name, t in tensors.items() if name in grads and t is not None]
    out = masked_linear(*tensors.values(), **mask, activation=activation, backend="triton")
    return [out, *(torch.autograd.grad(out.square().sum(), wanted) if wanted else ())]


def network(*, rows: int = 4, units: int = 9, activation: str = "relu", grads: str = "xwb") -> list[Tensor]:
    degrees = vf.masks.made_degrees(5, (units, 7), 2, device=torch.device(DEVICE))
    sizes = [len(d) for d in degrees]
    weights = [numbers(o, i, seed=i) for i, o in pairwise(sizes)]
    biases, x = [numbers(o, seed=o) for o in sizes[1:]], numbers(rows, 5)
    named = {"x": [x], "w": weights, "b": biases}
    wanted = [t.requires_grad_() for name in grads for t in named[name]]
    out = made(x, weights, biases, degrees, activation=activation, backend="triton")
    return [out, *(torch.autograd.grad(out.square().sum(), wanted) if wanted else ())]


CALLS: dict[str, list[tuple[Callable[..., list[Tensor]], dict[str, Any]]]] = {
    "masked_conv": [
        (conv, changed)
        for changed in (
            {},
            {"mask_type": "A"},
            {"activation": "relu"},
            {"activation": "none"},
            {"image_channels": 3},
            {"dilation": (1, 2)},
            {"residual": True},
            {"channels_last": True},
            {"bias": False},
            {"cond": 2, "grads": "xwbc"},
            {"cond": 4, "grads": "xwbc"},
            {"grads": "x"},
            {"grads": "w"},
            {"grads": ""},
            {"size": (2, 5, 3)},
            {"size": (3, 3, 5)},
            {"dtype": torch.bfloat16},
            {"activation": "none", "cond": 4, "grads": "c"},
        )
    ],
    "masked_linear": [
        (linear, changed)
        for changed in (
            *({}, {"activation": "none"}, {"activation": "tanh"}, {"rows": 5}, {"adjacency": True}, {"bias": False}),
            *({"grads": "x"}, {"grads": "w"}, {"grads": "b"}, {"grads": ""}),
        )
    ],
    "made": [
        (network, changed)
        for changed in ({}, {"activation": "elu"}, {"rows": 6}, {"units": 11}, {"grads": "x"}, {"grads": "b"})
    ],
}


@pytest.mark.parametrize("op", CALLS)
def test_calls_do_not_see_each_other(op: str) -> None:
    """Each with the plans of those before it, and a second time with its own."""
    expected = []
    for call, changed in CALLS[op]:
        with kept.plans_anew():
            expected.append(call(**changed))
    for _ in range(2):
        for (call, changed), alone in zip(CALLS[op], expected, strict=True):
            found = call(**changed)
            assert [(t.shape, t.stride(), t.dtype) for t in found] == [(t.shape, t.stride(), t.dtype) for t in alone]
            assert all(map(torch.equal, found, alone)), changed


@pytest.fixture
def precisions() -> Iterator[None]:
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = products.fp32_precision, convolutions.fp32_precision
    yield
    products.fp32_precision, convolutions.fp32_precision = before


@pytest.mark.usefixtures("precisions")
@pytest.mark.parametrize("call", [conv, linear, network])
def test_a_changed_precision_is_seen(call: Callable[..., list[Tensor]], monkeypatch: pytest.MonkeyPatch) -> None:
    from vlae_fast.kernels import launch

    own, seen = launch.prepared, set()

    def prepared(kernel: Any, grid: tuple[int, ...], **values: Any) -> Any:
        launches = own(kernel, grid, **values)

        def run(*tensors: Any) -> None:
            seen.add(values.get("PRECISION"))
            launches(*tensors)

        return run

    monkeypatch.setattr(launch, "prepared", prepared)
    for precision in ("ieee", "tf32", "ieee"):
        torch.backends.cuda.matmul.fp32_precision = torch.backends.cudnn.conv.fp32_precision = precision
        seen.clear()
        call()
        assert seen - {None} == {precision}


def test_a_bias_of_any_strides() -> None:
    x, weight, columns = numbers(1, 2, 3, 3), numbers(8, 2, 3, 3, seed=1), numbers(8, 2, seed=2)
    found, expected = (
        masked_conv(x, weight, columns[:, 1], mask_type="B", backend=backend) for backend in ("triton", "reference")
    )
    torch.testing.assert_close(found, expected)


def test_not_more_than_so_many_are_kept() -> None:
    @kept.planned
    def plan(size: int) -> int:
        return size

    for size in range(kept.PLANS + 10):
        assert plan(size) == size
    assert plan.cache_info().currsize == kept.PLANS  # type: ignore[attr-defined]
    with kept.plans_anew():
        assert plan.cache_info().currsize == 0  # type: ignore[attr-defined]


def test_degrees_in_the_place_of_others() -> None:
    """An address, and so an id, is given again: what was found for the tensors that had it is not theirs."""
    from vlae_fast.kernels import live_tiles

    before, ids = len(live_tiles._BY_ID), set()
    for step in range(1, 40):
        degrees = torch.arange(40, device=DEVICE) // step, torch.arange(50, device=DEVICE)
        ids.add(tuple(map(id, degrees)))
        found = live_tiles.Mask(*degrees).walks(16, 16)
        assert found.equal(live_tiles._walks(degrees, 16, 16, False))
        del degrees
    gc.collect()
    assert len(live_tiles._BY_ID) == before
    assert len(ids) < 39
