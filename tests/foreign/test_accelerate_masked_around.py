"""Dead weights that are zero, and masks that lie around a plain layer."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cases.foreign import DataMaskedConv, is_fast
from torch import Tensor, nn

import vlae_fast as vf


def plain_conv(state: dict[str, Tensor], prefix: str = "") -> nn.Conv2d:
    conv = nn.Conv2d(2, 4, 3, padding=1)
    conv.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if "mask" not in k})
    return conv


class Around(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.register_buffer("mask", DataMaskedConv("B", 2, 4, 3).mask)

    def forward(self, x: Tensor) -> Tensor:
        self.conv.weight.data.mul_(self.mask)
        return self.conv(x)


class AroundProduct(Around):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.conv.weight * self.mask, self.conv.bias, padding=1)


class AroundActivated(Around):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


class AroundLinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.mask = nn.Linear(5, 4), torch.ones(4, 5).tril()

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.linear.weight * self.mask, self.linear.bias)


@pytest.mark.parametrize("make", [lambda: DataMaskedConv("B", 2, 4, 3, padding=1), Around], ids=["layer", "around"])
def test_dead_weights_are_zero_where_its_own_code_leaves_zeros(make: Callable[[], Any]) -> None:
    layer, x = make(), torch.randn(3, 2, 5, 6)
    prefix = "conv." if isinstance(layer, Around) else ""
    assert vf.accelerate(layer).replaced == [""]
    dead = layer.mask.expand(4, 2, 3, 3) == 0
    weight = layer.conv.weight if prefix else layer.weight
    assert not weight[dead].any() and weight[~dead].all()
    optimizer = torch.optim.SGD(layer.parameters(), 0.1, momentum=0.9)
    for _ in range(2):
        layer(x).square().sum().backward()
        weight.grad += 1  # as a penalty that was there before does by the momentum
        optimizer.step()
    assert weight[dead].any()
    torch.testing.assert_close(plain_conv(layer.state_dict(), prefix)(x), layer(x))
    fresh = {k: v + 1 if k.endswith("weight") else v for k, v in layer.state_dict().items()}
    layer.load_state_dict(fresh)
    assert not weight[dead].any()
    weight.data += 1
    copied = copy.deepcopy(layer)
    torch.testing.assert_close(plain_conv(copied.state_dict(), prefix)(x), layer(x))
    assert is_fast(layer)


def test_zeros_are_not_written_by_a_mask_that_has_changed() -> None:
    layer = DataMaskedConv("B", 2, 4, 3, padding=1)
    vf.accelerate(layer)
    layer.mask.data.fill_(1)
    layer.weight.data.fill_(1)
    assert layer.state_dict()["weight"].all()


AROUND: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "writes": (Around, "masked_conv B 3x3, "),
    "product": (AroundProduct, "masked_conv B 3x3, "),
    "activated": (AroundActivated, "masked_conv B 3x3 and relu in one pass, "),
    "linear": (AroundLinear, "masked_linear by degrees, "),
    "activation around": (lambda: nn.Sequential(Around(), nn.ReLU()), "masked_conv B 3x3 and relu in one pass, "),
}


@pytest.mark.parametrize("name", AROUND)
def test_a_mask_around_a_plain_layer(name: str) -> None:
    make, what = AROUND[name]
    model = nn.Sequential(make())
    x = torch.randn(3, 5) if name == "linear" else torch.randn(3, 2, 5, 6)
    plain = copy.deepcopy(model)
    report = vf.accelerate(model)
    assert any((row.now or "").startswith(what) for row in report.rows) and not report.left_alone, str(report)
    torch.testing.assert_close(model(x), plain(x))
    assert set(vf.accelerate(model).left_alone.values()) == {"accelerated already, with the module around it"}
    report.undo()
    assert not is_fast(model) and model(x).equal(plain(x))


def test_a_plain_layer_in_a_module_without_a_mask_is_left_alone() -> None:
    class Plain(Around):
        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x)

    assert vf.accelerate(Plain()).left_alone == {"conv": "a plain layer: none of its weights is dead"}
