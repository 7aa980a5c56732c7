"""Changes after `accelerate` to what a layer reads: the layer computes what its own code now does."""

import copy
import functools
import itertools
import types
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cases.foreign import Gated, ProductMaskedConv, ProductMaskedLinear, is_fast
from torch import Tensor, nn

import vlae_fast as vf
from vlae_fast.foreign.swap import own_method

SCALE = 1.0
OPTIONS = {"scale": 1.0}


def scaled_by_a_global(y: Tensor) -> Tensor:
    return y * OPTIONS["scale"]


class Tuned(ProductMaskedConv):
    """A masked convolution and something after it, which is nothing until somebody changes it."""

    gain = 1.0

    def __init__(self, use: Callable[[Any, Tensor], Tensor], **attributes: Any) -> None:
        super().__init__("B", 2, 3, 3, padding=1)
        self.use = use
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.use(self, super().forward(x))


class Subclassed(Tuned):
    """Its class is changed by a test."""

    shift = 0.0

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.gain + self.shift


class Padded(ProductMaskedConv):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.weight * self.mask, self.bias, self.stride, self.padding, self.dilation)


class Settings:
    """A class that is a configuration: nobody makes one of it."""

    scale = 1.0


class Matching(ProductMaskedConv):
    """Reads an attribute by a pattern, in which no code names it."""

    scale = 1.0

    def forward(self, x: Tensor) -> Tensor:
        match self:
            case Matching(scale=scale):
                return super().forward(x) * scale
        raise AssertionError


class Answering(ProductMaskedConv):
    """Has an attribute that `__getattr__` makes of another."""

    hidden = 1.0

    def __getattr__(self, name: str) -> Any:
        return self.hidden if name == "scale" else super().__getattr__(name)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.scale


def settings_module() -> Any:
    module = types.ModuleType("settings_of_somebody")
    module.scale = 1.0  # type: ignore[attr-defined]
    return module


MODULE = settings_module()


def closure() -> tuple[Callable[[Any, Tensor], Tensor], Callable[..., None]]:
    scale = 1.0

    def use(_: Any, y: Tensor) -> Tensor:
        return y * scale

    def change(to: float = 2.0) -> None:
        nonlocal scale
        scale = to

    return use, change


def config(**values: Any) -> Any:
    return types.SimpleNamespace(**values)


USE, CHANGE_CLOSURE = closure()

Change = tuple[Callable[[], Any], Callable[[Any], Any]]
CHANGES: dict[str, Change] = {
    "number": (lambda: Tuned(lambda s, y: y * s.scale, scale=1.0), lambda m: setattr(m, "scale", 2.0)),
    "number by another type": (
        lambda: Tuned(lambda s, y: y * s.scale, scale=1.0),
        lambda m: setattr(m, "scale", torch.tensor([2.0])),
    ),
    "tensor without dimensions": (
        lambda: Tuned(lambda s, y: y * s.scale, scale=torch.tensor(1.0)),
        lambda m: m.scale.fill_(2),
    ),
    "its data": (
        lambda: Tuned(lambda s, y: y * s.scale, scale=torch.tensor(1.0)),
        lambda m: m.scale.data.fill_(2),
    ),
    "tensor of the kernel's size": (
        lambda: Tuned(lambda s, y: y * s.scale.mean().item(), scale=torch.ones(3)),
        lambda m: m.scale.mul_(2),
    ),
    "array of NumPy": (
        lambda: Tuned(lambda s, y: y * float(s.scale[0]), scale=np.ones(2)),
        lambda m: m.scale.__setitem__(0, 2.0),
    ),
    "tuple": (lambda: Padded("B", 2, 3, 3, padding=1), lambda m: setattr(m, "padding", (2, 2))),
    "dilation": (
        lambda: Padded("B", 2, 3, 3, padding=1),
        lambda m: (setattr(m, "dilation", (2, 2)), setattr(m, "padding", (2, 2))),
    ),
    "tuple with a tensor": (
        lambda: Tuned(lambda s, y: y * s.pair[0], pair=(torch.tensor(1.0), 0)),
        lambda m: m.pair[0].fill_(2),
    ),
    "list": (lambda: Tuned(lambda s, y: y * s.scales[0], scales=[1.0]), lambda m: m.scales.__setitem__(0, 2.0)),
    "dict": (lambda: Tuned(lambda s, y: y * s.d["a"], d={"a": 1.0}), lambda m: m.d.update(a=2.0)),
    "dict in a dict": (
        lambda: Tuned(lambda s, y: y * s.d["a"]["b"], d={"a": {"b": 1.0}}),
        lambda m: m.d["a"].update(b=2.0),
    ),
    "another key": (lambda: Tuned(lambda s, y: y * s.d.get("b", 1.0), d={"a": 1.0}), lambda m: m.d.update(b=2.0)),
    "set": (lambda: Tuned(lambda s, y: y * len(s.names), names={"a"}), lambda m: m.names.add("b")),
    "object": (
        lambda: Tuned(lambda s, y: y * s.cfg.scale, cfg=config(scale=1.0)),
        lambda m: setattr(m.cfg, "scale", 2.0),
    ),
    "object in an object": (
        lambda: Tuned(lambda s, y: y * s.cfg.inner.scale, cfg=config(inner=config(scale=1.0))),
        lambda m: setattr(m.cfg.inner, "scale", 2.0),
    ),
    "another object": (
        lambda: Tuned(lambda s, y: y * s.cfg.scale, cfg=config(scale=1.0)),
        lambda m: (setattr(m, "cfg", config(scale=1.0)), setattr(m.cfg, "scale", 2.0)),
    ),
    "p of Dropout": (lambda: Tuned(lambda s, y: s.drop(y), drop=nn.Dropout(0.0)), lambda m: setattr(m.drop, "p", 0.5)),
    "slope of a part": (
        lambda: Tuned(lambda s, y: s.act(y), act=nn.LeakyReLU(1.0)),
        lambda m: setattr(m.act, "negative_slope", 0.1),
    ),
    "part": (lambda: Tuned(lambda s, y: s.after(y), after=nn.Identity()), lambda m: setattr(m, "after", nn.Tanh())),
    "part within a part": (
        lambda: Tuned(lambda s, y: s.after(y), after=nn.Sequential(nn.Identity())),
        lambda m: m.after.__setitem__(0, nn.Tanh()),
    ),
    "part that is added": (
        lambda: Tuned(lambda s, y: s.after(y), after=nn.Sequential()),
        lambda m: m.after.append(nn.Tanh()),
    ),
    "function": (lambda: Tuned(lambda s, y: s.after(y), after=lambda y: y), lambda m: setattr(m, "after", torch.tanh)),
    "keyword of a partial": (
        lambda: Tuned(lambda s, y: s.after(y), after=functools.partial(torch.add, other=0.0)),
        lambda m: m.after.keywords.update(other=2.0),
    ),
    "variable of a closure": (lambda: Tuned(USE), lambda m: CHANGE_CLOSURE()),
    "global": (lambda: Tuned(lambda s, y: y * SCALE), lambda m: globals().update(SCALE=2.0)),
    "global of a function": (lambda: Tuned(lambda s, y: scaled_by_a_global(y)), lambda m: OPTIONS.update(scale=2.0)),
    "attribute by its name": (
        lambda: Tuned(lambda s, y: y * getattr(s, "fac" + "tor", 1.0)),
        lambda m: setattr(m, "factor", 2.0),
    ),
    "attribute of the class": (lambda: Subclassed(lambda s, y: y), lambda m: setattr(Subclassed, "shift", 2.0)),
    "attribute of a class that it names": (
        lambda: Tuned(lambda s, y: y * Settings.scale),
        lambda m: setattr(Settings, "scale", 2.0),
    ),
    "variable of a module that it names": (
        lambda: Tuned(lambda s, y: y * MODULE.scale),
        lambda m: setattr(MODULE, "scale", 2.0),
    ),
    "attribute in a pattern": (lambda: Matching("B", 2, 3, 3, padding=1), lambda m: setattr(m, "scale", 2.0)),
    "attribute behind __getattr__": (
        lambda: Answering("B", 2, 3, 3, padding=1),
        lambda m: setattr(m, "hidden", 2.0),
    ),
    "attribute that hides the class's": (lambda: Subclassed(lambda s, y: y), lambda m: setattr(m, "gain", 2.0)),
    "method of the class": (
        lambda: type("Made", (Tuned,), {"forward": lambda s, x: Tuned.forward(s, x)})(lambda s, y: y),
        lambda m: setattr(type(m).__mro__[2], "forward", lambda s, x: 2 * Tuned.forward(s, x)),
    ),
}


@pytest.fixture(autouse=True)
def _as_it_was() -> Any:
    yield
    globals().update(SCALE=1.0)
    OPTIONS.update(scale=1.0)
    CHANGE_CLOSURE(1.0)
    Subclassed.shift = 0.0
    Settings.scale = MODULE.scale = 1.0


@pytest.mark.parametrize("after_a_call", [False, True])
@pytest.mark.parametrize("name", CHANGES)
def test_what_a_layer_reads_is_watched(name: str, after_a_call: bool) -> None:
    make, change = CHANGES[name]
    layer, x = make(), torch.randn(2, 2, 6, 5)
    assert vf.accelerate(layer).replaced == [""]
    if after_a_call:
        layer(x)
    assert is_fast(layer)
    change(layer)
    torch.manual_seed(1)
    with pytest.warns(UserWarning, match=r"accelerate: .* has changed, and the module has its own forward back"):
        got = layer(x)
    torch.manual_seed(1)
    own = own_method(layer, "forward")(x)
    assert got.equal(own) and not is_fast(layer)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", CHANGES)
def test_what_does_not_change_keeps_the_layer_fast(name: str) -> None:
    layer, x = CHANGES[name][0](), torch.randn(2, 2, 6, 5)
    vf.accelerate(layer)
    own = own_method(layer, "forward")(x)
    for copied in (layer, copy.deepcopy(layer)):
        torch.testing.assert_close(copied(x), own)
        torch.testing.assert_close(copied.train()(x), own)
        assert is_fast(copied)


def test_attributes_that_the_code_does_not_name_may_change_and_be_anything() -> None:
    layer, x = ProductMaskedLinear(torch.ones(4, 4).tril()), torch.randn(2, 4)
    layer.count, layer.stream = 0, itertools.count()
    assert vf.accelerate(layer).replaced == [""]
    layer.count += 1
    layer(x)
    assert is_fast(layer)


UNSEEN: dict[str, tuple[Any, str]] = {
    "iterator": (itertools.count(), "changes of what, a count, cannot be seen"),
    "too many": ([[i] for i in range(300)], "more lies in what than can be watched in every call"),
}


@pytest.mark.parametrize("name", UNSEEN)
def test_what_cannot_be_watched_is_not_replaced(name: str) -> None:
    value, why = UNSEEN[name]
    layer = Tuned(lambda s, y: y if s.what is not None else -y, what=value)
    assert why in vf.accelerate(layer).left_alone[""] and not is_fast(layer)


def test_a_changed_layer_in_a_wrapper_changes_the_wrapper() -> None:
    model, x = Gated(Tuned(lambda s, y: y * s.scale, scale=1.0)), torch.randn(2, 2, 6, 5)
    model.conv = Tuned(lambda s, y: torch.cat([y, y[:, :1]], 1) * s.scale, scale=1.0)
    vf.accelerate(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.conv.scale = 0.0
        assert not model(x).any()
