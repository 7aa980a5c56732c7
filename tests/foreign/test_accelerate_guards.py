"""Layers that keep themselves out of autocast, inputs of other dtypes, inverses under autocast."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases.foreign import Gated, ProductMaskedConv, ProductMaskedLinear, is_fast
from torch import Tensor, nn

import vlae_fast as vf


def triangular(size: int = 6) -> ProductMaskedLinear:
    return ProductMaskedLinear(torch.ones(size, size).tril())


class OutOfAutocast(ProductMaskedLinear):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.to(self.weight.dtype))


class OutOfAutocastAndBack(ProductMaskedLinear):
    """Sums in full precision, and rounds the result only."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            y = super().forward(x.to(self.weight.dtype))
        return y.to(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else y


class Decorated(ProductMaskedConv):
    @torch.autocast("cpu", enabled=False)
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype))


class OutOfAutocastOfGpus(ProductMaskedLinear):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cuda", enabled=False):
            return super().forward(x)


class CastsItsInput(ProductMaskedLinear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype))


GUARDED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "to float32": (
        lambda: OutOfAutocast(torch.ones(6, 6).tril()),
        "its output under autocast to bfloat16 is float32, that of masked_linear by degrees bfloat16",
    ),
    "and back": (
        lambda: OutOfAutocastAndBack(torch.ones(6, 6).tril()),
        "its output under autocast to float16 is finite where that of masked_linear by degrees is not",
    ),
    "decorated": (
        lambda: Decorated("B", 2, 4, 3, padding=1),
        "its output under autocast to bfloat16 is float32, that of masked_conv B 3x3 bfloat16",
    ),
}


@pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda':UserWarning")
@pytest.mark.parametrize("name", GUARDED)
def test_a_layer_that_keeps_itself_out_of_autocast_is_left_alone(name: str) -> None:
    make, why = GUARDED[name]
    layer = make()
    assert vf.accelerate(layer).left_alone == {"": why}


@pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda':UserWarning")
def test_a_guard_for_another_device_is_kept_there() -> None:
    layer = OutOfAutocastOfGpus(torch.ones(6, 6).tril())
    assert vf.accelerate(layer).replaced == [""]
    record, x = vars(layer)["_vlae_fast"], torch.randn(2, 6)
    assert record.traits.amp == {"cpu"}
    layer(x)  # compared with its own, once
    record.traits = record.traits._replace(amp=frozenset(["cuda"]))  # as if it had been compared there
    own, calls = record.own, []
    record.own = lambda module: calls.append(module) or own(module)
    layer(x)
    assert calls == []
    with torch.autocast("cpu", torch.bfloat16):
        layer(x)
    assert calls == [layer]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64])
def test_an_input_of_another_dtype_goes_by_the_layers_own_forward(dtype: torch.dtype) -> None:
    layer, x = CastsItsInput(torch.ones(6, 6).tril()), (4 * torch.randn(3, 6)).to(dtype)
    want = layer(x)
    vf.accelerate(layer)
    got = layer(x)
    assert got.equal(want) and got.dtype == torch.float32 and is_fast(layer)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("given", [torch.float32, None])
def test_autocast_gives_the_dtype_it_gave(half: torch.dtype, given: torch.dtype | None) -> None:
    for layer, x in (
        (triangular(), torch.randn(3, 6)),
        (Gated(ProductMaskedConv("B", 2, 4, 3, padding=1)), torch.randn(2, 2, 5, 6)),
    ):
        plain = copy.deepcopy(layer)
        vf.accelerate(layer)
        with torch.autocast("cpu", half):
            got, want = layer(x.to(given or half)), plain(x.to(given or half))
        assert got.dtype == want.dtype == half and is_fast(layer)
        torch.testing.assert_close(got, want, rtol=0.05, atol=0.05)


FLOWS: dict[str, Callable[[], Any]] = {
    "zuko": lambda: pytest.importorskip("zuko").flows.MaskedAutoregressiveTransform(6, 3, hidden_features=(16,)),
    "nflows": lambda: pytest.importorskip("nflows.transforms").MaskedAffineAutoregressiveTransform(
        6, 16, context_features=3, num_blocks=1, use_residual_blocks=False
    ),
    "normflows": lambda: pytest.importorskip("normflows").flows.MaskedAffineAutoregressive(
        6, 16, num_blocks=1, use_residual_blocks=False
    ),
}


def inverse(name: str, flow: Any, y: Tensor, c: Tensor) -> Tensor:
    if name == "zuko":
        return flow(c).inv(y)
    return flow.inverse(y, c if name == "nflows" else None)[0]


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", FLOWS)
def test_inverses_under_autocast_keep_all_digits(name: str, half: torch.dtype) -> None:
    flow, y, c = FLOWS[name](), torch.randn(5, 6), torch.randn(5, 3)
    want = inverse(name, flow, y, c)
    with torch.autocast("cpu", half):
        before = inverse(name, flow, y.to(half), c)
        assert all(row.replaced for row in vf.accelerate_flows(flow))
        got, of_half = inverse(name, flow, y, c), inverse(name, flow, y.to(half), c.to(half))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    assert of_half.dtype == before.dtype == half
    torch.testing.assert_close(of_half, want.to(half), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("name", ["zuko", "nflows"])
def test_inverses_under_torch_func(name: str) -> None:
    flow, y, c = FLOWS[name](), torch.randn(6), torch.randn(3)
    own = torch.func.jacrev(lambda y: inverse(name, flow, y[None], c[None])[0])(y)
    vf.accelerate_flows(flow)
    got = torch.func.jacrev(lambda y: inverse(name, flow, y[None], c[None])[0])(y)
    torch.testing.assert_close(got, own)


def test_inverses_verify_themselves() -> None:
    flow, y = FLOWS["normflows"](), torch.randn(5, 6)
    want = flow.inverse(y)
    vf.accelerate(flow, verify_every=2)
    for _ in range(4):
        torch.testing.assert_close(flow.inverse(y), want, rtol=1e-4, atol=1e-4)
