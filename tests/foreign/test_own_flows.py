"""Flows of nobody's library, found by what their two directions compute."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases.own_flows import Added, Clamped, Functional, Gelu, Interleaved, Moded, Own, Sigmoids, Softly
from torch import Tensor, nn

import vlae_fast as vf

FLOWS: dict[str, tuple[Callable[[], nn.Module], Callable[[Any, Tensor], Any]]] = {
    "own": (Own, lambda f, u: f.inverse(u)),
    "sigmoids": (Sigmoids, lambda f, u: f.inverse(u)),
    "side by side": (Interleaved, lambda f, u: f.decode(u)),
    "two networks, added": (Added, lambda f, u: f.g(u)),
    "one method": (Moded, lambda f, u: f(u, mode="inverse")),
    "one method, by place": (Moded, lambda f, u: f(u, None, "inverse")),
    "functional, mean only": (Functional, lambda f, u: f.inverse(u)),
    "clamped": (Clamped, lambda f, u: f.inverse(u)),
}


def values(out: Any) -> list[Tensor]:
    return list(out.values()) if isinstance(out, dict) else list(out) if isinstance(out, tuple) else [out]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", FLOWS)
def test_the_inverse_is_the_flows_own(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    make, inverse = FLOWS[name]
    flow = make().to(dtype)
    u = torch.randn(7, 5 if name.startswith("functional") else 6, dtype=dtype)
    want = inverse(flow, u)
    (row,) = vf.accelerate_flows(flow)
    assert row.replaced, row
    have, record = inverse(flow, u), vars(flow)["_vlae_fast"]
    assert type(have) is type(want)
    for a, b in zip(values(have), values(want), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    ran = []
    monkeypatch.setattr(record, "inverse", lambda *a: ran.append(1) or type(record).inverse(record, *a))
    with torch.no_grad():
        for p in flow.parameters():
            p.mul_(0.7)  # trained on
    again = inverse(flow, u)
    monkeypatch.undo()
    assert ran
    own = copy.deepcopy(flow)
    vf.restore_flows(own)
    for a, b in zip(values(again), values(inverse(own, u)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    twin = pickle.loads(pickle.dumps(copy.deepcopy(flow)))
    for a, b in zip(values(inverse(twin, u)), values(again), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_gradients_through_the_inverse() -> None:
    flow, u = Moded(), torch.randn(4, 6, requires_grad=True)
    own = copy.deepcopy(flow)
    assert vf.accelerate_flows(flow)[0].replaced

    def gradients(of: nn.Module) -> list[Tensor]:
        x, log_det = of(u, mode="inverse") if of is flow else by_passes(of, u)
        return list(torch.autograd.grad(x.square().sum() + log_det.square().sum(), [u, *of.parameters()]))

    def by_passes(of: Any, u: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.zeros_like(u)
        for _ in range(6):  # without writes in place, which autograd could not follow
            m, a = of.params(x)
            x = u * torch.exp(a) + m
        return x, -of.params(x)[1]

    for a, b in zip(gradients(flow), gradients(own), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_numbers_for_which_it_does_not_hold_take_the_own_inverse() -> None:
    flow, u = Clamped(), 3 * torch.randn(5, 6)
    vf.accelerate_flows(flow)
    with torch.no_grad():
        flow.net[-1].bias[6:] = 5.0  # all log-scales are cut off
    own = copy.deepcopy(flow)
    vf.restore_flows(own)
    assert flow.inverse(u).equal(own.inverse(u))
    assert flow.forward(u)[0].equal(own.forward(u)[0])


def test_what_is_not_covered_says_why() -> None:
    cases = {
        Gelu: "something else than x or relu, elu, tanh, sigmoid of another layer",
        Softly: "its scale must be exp",
    }
    for make, why in cases.items():
        flow = make()
        u = torch.randn(3, 6)
        want = flow.inverse(u)
        (row,) = vf.accelerate_flows(flow)
        assert not row.replaced and why in row.reason, row
        assert flow.inverse(u).equal(want)

    class AutoEncoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def encode(self, x: Tensor) -> Tensor:
            return self.a(x)

        def decode(self, z: Tensor) -> Tensor:
            return self.b(z)

    assert vf.accelerate_flows(AutoEncoder()) == []


def test_a_flow_that_sees_itself_is_left_alone() -> None:
    flow = Own()
    flow.net[4].mask.fill_(1)
    (row,) = vf.accelerate_flows(flow)
    assert not row.replaced and "is not autoregressive" in row.reason


def test_a_chain_is_no_flow_of_its_own() -> None:
    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.flows = nn.ModuleList([Own(), Own()])

        def forward(self, x: Tensor) -> Tensor:
            for flow in self.flows:
                x = flow(x)[0]
            return x

        def inverse(self, u: Tensor) -> Tensor:
            for flow in reversed(self.flows):
                u = flow.inverse(u)
            return u

    chain, u = Chain(), torch.randn(5, 6)
    want = chain.inverse(u)
    rows = vf.accelerate_flows(chain)
    assert [(row.path, row.replaced) for row in rows] == [("flows.0", True), ("flows.1", True)]
    torch.testing.assert_close(chain.inverse(u), want, rtol=1e-4, atol=1e-5)


def test_masks_are_watched() -> None:
    flow, u = Own(), torch.randn(4, 6)
    vf.accelerate_flows(flow)
    flow.net[2].mask.mul_(torch.rand(12, 12) > 0.4)
    own = copy.deepcopy(flow)
    vf.restore_flows(own)
    torch.testing.assert_close(flow.inverse(u), own.inverse(u), rtol=1e-4, atol=1e-5)
