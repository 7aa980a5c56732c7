"""Copies of accelerated modules, of every depth, compute with what is theirs; so do forwards that are bound anew."""

import copy
import io
import pickle
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases.foreign import DataMaskedConv, Gated, ProductMaskedConv, ProductMaskedLinear, is_fast, made_masks
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import vlae_fast as vf
from vlae_fast.foreign.swap import own_method


class Around(nn.Module):
    """Masks the plain layer within it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        mask = torch.ones(1, 1, 3, 3)
        mask[:, :, 1, 2:] = 0
        mask[:, :, 2:] = 0
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        self.conv.weight.data *= self.mask
        return self.conv(x)


class Bias(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1


MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: ProductMaskedLinear(made_masks(5, 12)[0]), (3, 5)),
    "conv": (lambda: ProductMaskedConv("B", 2, 4, 3, padding=1), (2, 2, 5, 6)),
    "conv that writes": (lambda: DataMaskedConv("B", 2, 4, 3, padding=1), (2, 2, 5, 6)),
    "gate": (lambda: Gated(ProductMaskedConv("B", 2, 4, 3, padding=1)), (2, 2, 5, 6)),
    "mask around": (Around, (2, 2, 5, 6)),
    "parametrized": (lambda: parametrizations.weight_norm(ProductMaskedConv("B", 2, 4, 3, padding=1)), (2, 2, 5, 6)),
}


def replica(net: nn.Module, change: Callable[[Tensor], Tensor]) -> nn.Module:
    """A replica as `nn.parallel.replicate` makes it, with ``change`` in place of the copy to a device."""
    modules: list[Any] = list(net.modules())
    copies = {module: module._replicate_for_data_parallel() for module in modules}
    for module, copied in copies.items():
        copied._modules = {name: copies[part] for name, part in module._modules.items()}
        for name, p in module._parameters.items():
            setattr(copied, name, None if p is None else change(p))
        copied._buffers = {name: t.clone() for name, t in module._buffers.items()}
    return copies[net]


def shallow(net: nn.Module, change: Callable[[Tensor], Tensor]) -> nn.Module:
    """`copy.copy` of a module and its parts, with parameters of its own."""
    if parametrize.is_parametrized(net):
        pytest.skip("torch copies no parametrized module so")
    copied: Any = copy.copy(net)
    copied._modules = {name: shallow(part, change) for name, part in net._modules.items()}
    copied._parameters = {n: None if p is None else nn.Parameter(change(p)) for n, p in net._parameters.items()}
    return copied


def deep(net: nn.Module, change: Callable[[Tensor], Tensor]) -> nn.Module:
    return changed(copy.deepcopy(net), change)


def pickled(net: nn.Module, change: Callable[[Tensor], Tensor]) -> nn.Module:
    if parametrize.is_parametrized(net):
        pytest.skip("torch pickles no parametrized module")
    return changed(pickle.loads(pickle.dumps(net, 2)), change)


def saved(net: nn.Module, change: Callable[[Tensor], Tensor]) -> nn.Module:
    if parametrize.is_parametrized(net):
        pytest.skip("torch pickles no parametrized module")
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    return changed(torch.load(file, weights_only=False), change)


def changed(net: nn.Module, change: Callable[[Tensor], Tensor]) -> nn.Module:
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(change(p))
    return net


@pytest.mark.parametrize("copied", [replica, shallow, deep, pickled, saved])
@pytest.mark.parametrize("called", [False, True])
@pytest.mark.parametrize("name", MODULES)
def test_copies_compute_with_their_own_weights(name: str, called: bool, copied: Any) -> None:
    make, shape = MODULES[name]
    net, x = make(), torch.randn(shape)
    want, unchanged = copied(net, lambda p: 1.5 * p.detach())(x), net(x)
    assert vf.accelerate(net).replaced
    if called:
        net(x)
    other = copied(net, lambda p: 1.5 * p.detach())
    torch.testing.assert_close(other(x), want)
    torch.testing.assert_close(other(x), want)
    torch.testing.assert_close(net(x), unchanged)
    assert is_fast(net) and is_fast(other)


@pytest.mark.parametrize("copied", [shallow, deep, pickled])
def test_a_copy_whose_mask_is_another_before_it_first_runs_has_its_own_forward_back(copied: Any) -> None:
    net, x = ProductMaskedLinear(torch.ones(4, 4).tril()), torch.randn(2, 4)
    vf.accelerate(net)
    other = copied(net, lambda p: p.detach())
    other._buffers = {"mask": torch.eye(4)}
    with pytest.warns(UserWarning, match="mask of a ProductMaskedLinear has changed"):
        got = other(x)
    assert got.equal(own_method(other, "forward")(x)) and is_fast(net)


def test_a_copy_made_after_an_unseen_change_has_its_own_forward_back() -> None:
    net, x = ProductMaskedLinear(torch.ones(4, 4).tril()), torch.randn(2, 4)
    vf.accelerate(net)
    net.mask.data.fill_(1)
    other = copy.deepcopy(net)
    with pytest.warns(UserWarning, match="mask of a ProductMaskedLinear has changed"):
        assert other(x).equal(nn.functional.linear(x, net.weight, net.bias))


def test_a_state_dict_with_another_mask_loaded_into_a_copy_that_never_ran() -> None:
    net, x = ProductMaskedLinear(torch.ones(4, 4).tril()), torch.randn(2, 4)
    vf.accelerate(net)
    other = copy.deepcopy(net)
    with pytest.warns(UserWarning, match="mask of a ProductMaskedLinear has changed"):
        other.load_state_dict({**net.state_dict(), "mask": torch.ones(4, 4)})
    assert other(x).equal(nn.functional.linear(x, net.weight, net.bias))


def test_replicas_follow_a_mask_that_changes() -> None:
    net, x = ProductMaskedLinear(torch.ones(4, 4).tril()), torch.randn(2, 4)
    vf.accelerate(net)
    net.mask.fill_(1)
    with pytest.warns(UserWarning, match="mask of a ProductMaskedLinear has changed"):
        got = replica(net, lambda p: p.detach())(x)
    torch.testing.assert_close(got, nn.functional.linear(x, net.weight, net.bias))


def test_a_forward_bound_anew() -> None:
    (net, other), x = (ProductMaskedLinear(torch.ones(4, 4).tril()) for _ in range(2)), torch.randn(2, 4)
    want, other_want = net(x), other(x)
    vf.accelerate(net)
    function = net.forward.__func__
    assert function(other, x).equal(other_want)
    other.forward = types.MethodType(function, other)
    assert other(x).equal(other_want)
    net.forward = types.MethodType(lambda self, x: 2 * function(self, x), net)  # as wrappers for mixed precision do
    torch.testing.assert_close(net(x), 2 * want)
    report = vf.accelerate(nn.Sequential(net))
    report.undo()
    torch.testing.assert_close(net(x), 2 * want)


def test_a_forward_that_was_bound_before() -> None:
    net, x = nn.Linear(4, 4), torch.randn(2, 4)
    net.mask = torch.ones(4, 4).tril()
    net.forward = types.MethodType(lambda self, x: nn.functional.linear(x, self.weight * self.mask, self.bias), net)
    own, want = net.forward, net(x)
    report = vf.accelerate(net)
    assert report.replaced == [""]
    torch.testing.assert_close(net(x), want)
    report.undo()
    assert net.forward is own and type(net) is nn.Linear


@pytest.mark.parametrize("name", MODULES)
def test_the_class_keeps_its_name_and_comes_back(name: str) -> None:
    net = MODULES[name][0]()
    kind, shown = type(net), repr(net)
    report = vf.accelerate(net)
    assert isinstance(net, kind) and repr(net) == shown and type(net).__qualname__ == kind.__qualname__
    report.undo()
    assert type(net) is kind and not is_fast(net)


def test_parametrizations_come_and_go() -> None:
    net, x = ProductMaskedConv("B", 2, 4, 3, padding=1), torch.randn(2, 2, 5, 6)
    plain = copy.deepcopy(net)
    vf.accelerate(net)
    for module in (net, plain):
        parametrize.register_parametrization(module, "bias", Bias())
    torch.testing.assert_close(net(x), plain(x))
    for module in (net, plain):
        parametrize.remove_parametrizations(module, "bias")
    torch.testing.assert_close(net(x), plain(x))
    normed = parametrizations.weight_norm(ProductMaskedConv("B", 2, 4, 3, padding=1))
    want = normed(x)
    vf.accelerate(normed)
    parametrize.remove_parametrizations(normed, "weight")
    torch.testing.assert_close(normed(x), want)


def test_a_registry_of_subclasses_is_not_told() -> None:
    told: list[str] = []

    class Registered(ProductMaskedLinear):
        def __init_subclass__(cls, *, key: str) -> None:
            told.append(key)

    net = Registered(torch.ones(4, 4).tril())
    assert vf.accelerate(net).replaced == [""] and told == []


FLOWS: dict[str, Callable[[], Any]] = {
    "zuko": lambda: pytest.importorskip("zuko").flows.MAF(4, 2, transforms=1, hidden_features=(8,)),
    "nflows": lambda: pytest.importorskip("nflows.transforms").MaskedAffineAutoregressiveTransform(
        4, 8, context_features=2, num_blocks=1, use_residual_blocks=False
    ),
}


def inverse(flow: Any, y: Tensor, c: Tensor) -> Tensor:
    return flow.inverse(y, c)[0] if hasattr(flow, "inverse") else flow(c).transform.inv(y)


@pytest.mark.parametrize("copied", [replica, shallow, deep, pickled])
@pytest.mark.parametrize("name", FLOWS)
def test_copies_of_flows(name: str, copied: Any) -> None:
    flow, y, c = FLOWS[name](), torch.randn(3, 4), torch.randn(3, 2)
    want, unchanged = inverse(copied(flow, lambda p: 1.5 * p.detach()), y, c), inverse(flow, y, c)
    assert all(row.replaced for row in vf.accelerate_flows(flow))
    other = copied(flow, lambda p: 1.5 * p.detach())
    torch.testing.assert_close(inverse(other, y, c), want, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(inverse(flow, y, c), unchanged, rtol=1e-4, atol=1e-4)


def test_the_distribution_of_a_zuko_flow_pickles() -> None:
    flow, c = FLOWS["zuko"](), torch.randn(2)
    vf.accelerate_flows(flow)
    other = pickle.loads(pickle.dumps(flow(c)))
    y = torch.randn(3, 4)
    assert other.transform.inv(y).equal(flow(c).transform.inv(y))
    assert copy.deepcopy(flow(c)).sample((3,)).shape == (3, 4)


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
def test_flows_with_weights_that_hooks_compute(name: str) -> None:
    (flow, plain), y, c = (FLOWS[name]() for _ in range(2)), torch.randn(3, 4), torch.randn(3, 2)
    for layer in [m for f in (flow, plain) for m in f.modules() if isinstance(m, nn.Linear)]:
        nn.utils.weight_norm(layer)
    plain.load_state_dict(flow.state_dict())
    assert all(row.replaced for row in vf.accelerate_flows(flow))
    inverse(flow, y, c)
    for module in (flow, plain):
        changed(module, lambda p: 1.2 * p)
    torch.testing.assert_close(inverse(flow, y, c), inverse(plain, y, c), rtol=1e-4, atol=1e-4)
