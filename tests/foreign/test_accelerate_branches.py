"""Layers that compute something else by a size, a mode or the numbers they meet, and weights that two modules have."""

import copy
import os
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from cases.foreign import DataMaskedConv, ProductMaskedConv, ProductMaskedLinear, is_fast, raster_mask
from torch import Tensor, nn

import vlae_fast as vf

Turn = Callable[[ProductMaskedLinear, Tensor, Tensor], Tensor]
# what a layer makes of its output y, and why it is left alone
TURNS: dict[str, tuple[Turn, str]] = {
    "a batch": (lambda layer, x, y: y if len(x) < 8 else 2 * y, "the output differs"),
    "inference mode": (lambda layer, x, y: 2 * y if torch.is_inference_mode_enabled() else y, "under inference_mode"),
    "frozen weights": (lambda layer, x, y: y if layer.weight.requires_grad else 2 * y, "its output under"),
    "large weights": (lambda layer, x, y: y + layer.bias.clamp(-100, 100) - layer.bias, "the output differs"),
}


def turned(turn: Turn) -> ProductMaskedLinear:
    class Turned(ProductMaskedLinear):
        def forward(self, x: Tensor) -> Tensor:
            return turn(self, x, super().forward(x))

    return Turned(torch.ones(6, 6).tril())


@pytest.mark.parametrize("by", TURNS)
def test_a_layer_that_is_another_elsewhere_is_left_alone(by: str) -> None:
    turn, why = TURNS[by]
    assert why in vf.accelerate(turned(turn)).left_alone[""]
    assert vf.accelerate(turned(lambda layer, x, y: y)).replaced == [""]


def test_the_first_call_of_a_size_is_compared() -> None:
    layer, small, large = (
        turned(lambda layer, x, y: y if len(x) < 500 else 2 * y),
        torch.randn(40, 6),
        torch.randn(600, 6),
    )
    own, report = copy.deepcopy(layer), vf.accelerate(layer)
    assert report.replaced == [""]
    torch.testing.assert_close(layer(small), own(small))
    assert is_fast(layer)
    with pytest.warns(UserWarning, match="the output of a Turned is off by 0.5 of its largest number"):
        assert layer(large).equal(own(large))
    assert not is_fast(layer)


def test_a_layer_that_reads_the_environment_is_left_alone() -> None:
    layer = turned(lambda layer, x, y: y * float(os.environ.get("SCALE", "1")))
    why = "changes of the environment, which it reads by environ, cannot be seen"
    assert vf.accelerate(layer).left_alone == {"": why}


class LazyMasked(nn.LazyConv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * raster_mask("B", self.weight), self.bias, padding=1)


class AroundLazy(nn.Module):
    """No class of a library, which may be a flow or a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.within, self.norm = nn.UninitializedParameter(), LazyMasked(3, 3), nn.LazyBatchNorm2d()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.within(x))


def test_layers_without_shapes_are_left_alone() -> None:
    model = nn.Sequential(AroundLazy())
    assert vf.accelerate(model).left_alone["0.within"] == "its weights have no values yet"
    assert model(torch.zeros(1, 2, 4, 4)).shape == (1, 3, 4, 4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_inputs_that_are_not_finite_are_no_difference(value: float) -> None:
    layer = ProductMaskedConv("B", 2, 3, 3, padding=1)
    vf.accelerate(layer)
    x = torch.randn(1, 2, 5, 5)
    x[0, 0, 2, 2] = value
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y = layer(x)
    assert is_fast(layer) and not y[0, :, 2, 2].isfinite().any() and y[0, :, 0].isfinite().all()


@pytest.mark.parametrize("other", ["plain", "masked"])
def test_a_layer_that_writes_to_a_weight_of_two_modules_is_left_alone(other: str) -> None:
    first = nn.Conv2d(4, 4, 3, padding=1) if other == "plain" else DataMaskedConv("B", 4, 4, 3, padding=1)
    writer = DataMaskedConv("A", 4, 4, 3, padding=1)
    first.weight = writer.weight
    model = nn.Sequential(first, nn.ReLU(), writer)
    own, x = copy.deepcopy(model), torch.randn(2, 4, 5, 5)
    assert "its forward writes to a weight that '0' has as well" in vf.accelerate(model).left_alone["2"]
    for _ in range(2):  # the first pass writes zeros that the second one meets
        torch.testing.assert_close(model(x), own(x))
