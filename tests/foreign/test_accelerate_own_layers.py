"""Layers whose class says nothing: found by what their modules compute, and left alone with the reason else."""

import copy
from collections.abc import Callable

import pytest
import torch
from cases.foreign_layers import (
    AroundLinear,
    Called,
    Conditioned,
    ConditionedBesides,
    OwnConv,
    OwnLinear,
    Stack,
    TwoCrops,
)
from torch import Tensor, nn

import vlae_fast as vf

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "own convolution": (lambda: OwnConv("A", 3, 4, 5), (2, 3, 7, 6), "masked_conv A 5x5"),
    "own convolution, dilated": (lambda: OwnConv("B", 3, 4, 3, 2), (2, 3, 9, 8), "masked_conv B 3x3 dilated 2x2"),
    "own product": (lambda: OwnLinear(6, 6), (5, 6), "masked_linear by degrees"),
    "own product, more inputs": (lambda: OwnLinear(9, 6), (5, 9), "masked_linear by degrees"),
    "mask around a linear layer": (lambda: AroundLinear(6, 6), (5, 6), "masked_linear by degrees"),
    "__call__": (lambda: Called(3, 4, 3), (2, 3, 5, 6), "masked_conv B 3x3"),
    "two crops": (lambda: TwoCrops(3, 4, 5), (2, 3, 7, 6), "2 crops of it"),
}


def results(module: nn.Module, *given: Tensor) -> list[Tensor]:
    """Outputs and gradients of all that is given and trained."""
    given = tuple(t.clone().requires_grad_() for t in given)
    out = module(*given)
    outs = list(out) if isinstance(out, tuple) else [out]
    weights = [torch.linspace(-1, 2, o.numel()).view(o.shape) for o in outs]
    leaves = [*given, *(p for p in module.parameters() if p.requires_grad)]
    return [*outs, *torch.autograd.grad(outs, leaves, weights, allow_unused=True, materialize_grads=True)]


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_of_any_class_is_found(name: str) -> None:
    make, shape, what = LAYERS[name]
    layer, x = make(), torch.randn(shape)
    layer(x)  # what writes zeros to dead weights has done so
    own = copy.deepcopy(layer)
    report = vf.accelerate(layer, measure=False)  # nor is its first call compared
    (row,) = (row for row in report.rows if row.now)
    assert row.path == "" and what in str(row.now), str(report)
    ran = []
    record = vars(layer)["_vlae_fast"]
    record.own = lambda module: ran.append(module) or own
    live = [p != 0 for p in layer.parameters()]
    for i, (have, want) in enumerate(zip(results(layer, x), results(own, x), strict=True)):
        if name == "__call__" and have.shape == live[0].shape and i:  # theirs gives dead weights a gradient
            have, want = have * live[0], want * live[0]
        torch.testing.assert_close(have, want, rtol=1e-4, atol=1e-4)
    assert not ran
    del record.own
    report.undo()
    assert "_vlae_fast" not in vars(layer) and type(layer) is type(own)


def test_further_arguments_take_the_own_forward() -> None:
    layer, x, cond = AroundLinear(6, 6), torch.randn(5, 6), torch.randn(5, 6)
    want, plain = layer(x, cond), layer(x)
    assert vf.accelerate(layer).replaced == [""]
    for have in (layer(x, cond), layer(x, cond=cond), layer(x=x, cond=cond)):
        assert have.equal(want)
    for have in (layer(x), layer(x, None), layer(x, cond=None), layer(x=x)):
        torch.testing.assert_close(have, plain)
    with pytest.raises(TypeError, match="unexpected keyword"):
        layer(x, condition=cond)


def test_crops_of_small_images() -> None:
    layer = TwoCrops(2, 3, 7)
    own = copy.deepcopy(layer)
    assert vf.accelerate(layer).replaced == [""]
    for shape in ((1, 2, 1, 1), (2, 2, 2, 5), (3, 2, 9, 1)):
        x = torch.randn(shape)
        for have, want in zip(layer(x), own(x), strict=True):
            torch.testing.assert_close(have, want, rtol=1e-5, atol=1e-5)


def test_names_of_torch_methods_may_be_taken() -> None:
    model, x = nn.Sequential(Stack()), torch.randn(2, 1, 6, 6)
    want = model(x)
    report = vf.accelerate(model)
    assert report.replaced == ["0.modules.0", "0.modules.1"], str(report)
    torch.testing.assert_close(model(x), want, rtol=1e-4, atol=1e-4)
    report.undo()
    assert model(x).equal(want)


@pytest.mark.parametrize("form", ["linear", "map", "expanded"])
def test_a_gate_takes_its_condition_along(form: str) -> None:
    model, x = Conditioned(form), torch.randn(2, 4, 5, 6)
    z = model.z(2, 5, 6)
    own = copy.deepcopy(model)
    report = vf.accelerate(model)
    assert report.replaced == ["conv", ""] and "its condition and gate in one pass" in str(report), str(report)
    for have, want in zip(results(model, x, z), results(own, x, z), strict=True):
        torch.testing.assert_close(have, want, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model(x), own(x), rtol=1e-4, atol=1e-4)  # without a condition
    torch.testing.assert_close(model(x, z=z), own(x, z), rtol=1e-4, atol=1e-4)
    if form == "map":  # one pixel for all was not compared: its own forward broadcasts it
        one = torch.randn(2, 3, 1, 1)
        assert model(x, one).equal(Conditioned.forward(model, x, one))


def test_a_gate_that_is_not_fused_says_why() -> None:
    report = vf.accelerate(ConditionedBesides("linear"))
    assert report.replaced == ["conv"] and "its gate is not fused" in report.left_alone[""], str(report)


def test_a_module_that_keeps_a_mask_and_is_no_layer_says_why() -> None:
    class Squared(OwnConv):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) ** 2

    assert "it is no convolution by its weight" in vf.accelerate(Squared("B", 2, 2, 3)).left_alone[""]
    assert vf.accelerate(nn.Sequential(nn.Embedding(3, 4), nn.LSTM(4, 4))).rows == []
