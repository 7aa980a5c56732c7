"""Which of two versions runs is decided by a clock: here by one that says what the test wants."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases.foreign import ProductMaskedConv, ProductMaskedLinear
from torch import nn

import vlae_fast as vf
from vlae_fast.foreign import fast_forward, measured


def triangle(size: int = 6) -> ProductMaskedLinear:
    return ProductMaskedLinear(torch.ones(size, size).tril())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], list[int]]:
    """Sets the ratio that is measured; returns the list of what was timed: 1 with gradients, 0 without."""

    def set_ratio(ratio: float) -> list[int]:
        timed: list[int] = []

        def ratio_of(own: Callable[[], None], fast: Callable[[], None], *_: Any) -> float:
            own()
            fast()
            timed.append(int(torch.is_grad_enabled()))
            return ratio

        monkeypatch.setattr(fast_forward, "ratio_of", ratio_of)
        return timed

    return set_ratio


def ran_own(layer: nn.Module, x: torch.Tensor) -> bool:
    """True where a call runs the layer's own forward."""
    record, ran = vars(layer)["_vlae_fast"], []
    own = record.own
    record.own = lambda module: ran.append(1) or own(module)
    layer(x)
    del record.own
    return bool(ran)


@pytest.mark.parametrize(("ratio", "own"), [(0.7, True), (1.0, True), (1.04, True), (1.2, False)])
def test_what_is_not_faster_by_a_margin_does_not_run(
    ratio: float, own: bool, clock: Callable[[float], list[int]]
) -> None:
    timed, layer, x = clock(ratio), triangle(), torch.randn(4, 6)
    report = vf.accelerate(layer)
    assert report.replaced == [""] and not report.measured and not timed
    layer(x)
    assert timed == [1]
    assert ran_own(layer, x) == own
    with torch.no_grad():
        layer(x)
        assert ran_own(layer, x) == own
    assert timed == [1, 0]
    layer(x[:3])  # as large, to a power of two, or nearly
    layer(torch.randn(64, 6))
    assert timed == [1, 0, 1]
    assert f"x{ratio:.2f}" in str(report) and ("its own is taken" in str(report)) == own


def test_nothing_is_timed_where_nobody_wants_it(clock: Callable[[float], list[int]]) -> None:
    timed, layer, x = clock(0.5), triangle(), torch.randn(4, 6)
    vf.accelerate(layer, measure=False)
    assert not ran_own(layer, x) and not timed
    other = triangle()
    vf.accelerate(other)
    torch.use_deterministic_algorithms(True)
    try:
        assert not ran_own(other, x)
    finally:
        torch.use_deterministic_algorithms(False)
    torch.compile(other, backend="eager", fullgraph=True)(x)
    assert not timed


def test_an_example_decides_at_once(clock: Callable[[float], list[int]]) -> None:
    clock(0.5)
    model = nn.Sequential(triangle(), nn.BatchNorm1d(6), triangle())
    state, x = {name: t.clone() for name, t in model.state_dict().items()}, torch.randn(4, 6)
    generator = torch.get_rng_state()
    report = vf.accelerate(model, example=x)
    assert report.replaced == []
    assert report.left_alone["0"].startswith("its own is as fast: forward x0.50, with gradients x0.50 on 4x6")
    assert all(t.equal(state[name]) for name, t in model.state_dict().items())
    assert torch.get_rng_state().equal(generator) and all(p.grad is None for p in model.parameters())
    assert "_vlae_fast" not in vars(model[0])
    clock(2.0)
    assert vf.accelerate(model, example=(torch.randn(4, 6),)).replaced == ["0", "2"]
    with pytest.raises(TypeError, match="unexpected keyword"):
        vf.accelerate(nn.Sequential(triangle()), example={"unknown": torch.randn(4, 6)})


def test_what_never_wins_has_its_own_class_back(clock: Callable[[float], list[int]]) -> None:
    timed, layer, x = clock(0.5), triangle(), torch.randn(4, 6)
    own = copy.deepcopy(layer)
    report = vf.accelerate(layer)
    for _ in range(measured.PATIENCE + 2):
        assert layer(x).equal(own(x))
    assert type(layer) is type(own) and "_vlae_fast" not in vars(layer)
    assert timed == [1, 1]  # the call, and a larger batch
    assert report.measured[""].endswith("its own is taken")
    report.undo()


def test_timing_leaves_nothing_behind(clock: Callable[[float], list[int]]) -> None:
    clock(2.0)
    layer = ProductMaskedConv("B", 2, 3, 3, padding=1)
    x, seen = torch.randn(2, 2, 5, 5, requires_grad=True), []
    layer.register_forward_hook(lambda *_: seen.append(1))
    layer.weight.register_hook(lambda g: seen.append(2))
    vf.accelerate(layer)
    y = layer(x)
    assert seen == [1] and x.grad is None and layer.weight.grad is None
    y.sum().backward()
    assert seen == [1, 2] and x.grad is not None


def test_the_clock_takes_turns_and_the_least_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    times, ran, now = iter([5.0, 1.0, 2.0, 3.0, 4.0, 8.0, 9.0, 9.0, 9.0, 9.0]), [], [0.0]
    monkeypatch.setattr(measured, "seconds", lambda device: now[0])

    def run(name: str) -> None:
        ran.append(name)
        now[0] += next(times)

    ratio = measured.ratio_of(lambda: run("own"), lambda: run("fast"), torch.device("cpu"))
    assert ratio == 2.0 and ran == ["own", "fast"] * 5


def test_a_small_layer_has_to_gain_what_a_call_costs_between_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice as fast in a loop is not enough where both take less than the steps in Python do in a model."""
    now = [0.0]
    monkeypatch.setattr(measured, "seconds", lambda device: now[0])

    def run(seconds: float) -> None:
        now[0] += seconds

    def ratio(own: float, fast: float) -> float:
        cpu = torch.device("cpu")
        return measured.ratio_of(lambda: run(own), lambda: run(fast), cpu, measured.BETWEEN_LAYERS)

    assert ratio(2e-4, 1e-4) < measured.MARGIN < ratio(2e-3, 1e-3) < 2


def test_flows_are_timed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    zuko = pytest.importorskip("zuko")
    from vlae_fast.foreign.flows import inverses

    for ratio, fast in ((0.1, False), (0.5, True)):  # of one pass: the flow takes 7
        monkeypatch.setattr(inverses, "ratio_of", lambda own, fast, device, ratio=ratio: ratio)
        flow = zuko.flows.MaskedAutoregressiveTransform(7, hidden_features=(8,))
        vf.accelerate_flows(flow)
        record, ran = vars(flow)["_vlae_fast"], []
        monkeypatch.setattr(record, "inverse", lambda *a, ran=ran, r=record: ran.append(1) or type(r).inverse(r, *a))
        flow().inv(torch.randn(3, 7))
        assert bool(ran) == fast
