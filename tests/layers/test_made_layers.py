"""MADE: one call for all layers where they are as they were made, layer by layer where somebody changed one."""

import copy
import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, weight_norm

import vlae_fast as vf
from vlae_fast.layers import linear


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Layers of each call of `made`."""
    found, op = [], linear.made

    def counted(x: Tensor, weights: list[Tensor], *args: object, **options: object) -> Tensor:
        found.append(len(weights))
        return op(x, weights, *args, **options)

    monkeypatch.setattr(linear, "made", counted)
    return found


def plain(made: vf.MADE, x: Tensor, context: Tensor | None = None) -> Tensor:
    """The MADE written out."""
    act = {"relu": torch.relu, "elu": nn.functional.elu, "tanh": torch.tanh}[made.activation]
    for i, layer in enumerate(made.layers):
        x = nn.functional.linear(x, layer.weight * layer.mask, layer.bias)
        if i == 0 and context is not None:
            x = x + made.context(context)
        x = act(x) if i + 1 < len(made.layers) else x
    return x


@pytest.mark.parametrize("context_dim", [0, 3])
@pytest.mark.parametrize("activation", ["relu", "elu", "tanh"])
def test_one_call_is_the_layers(activation: str, context_dim: int, calls: list[int]) -> None:
    made = vf.MADE(5, 12, 10, n_hidden=3, activation=activation, context_dim=context_dim)
    x, context = torch.randn(7, 5), torch.randn(7, context_dim) if context_dim else None
    y = made(x, context)
    assert calls == [4]
    torch.testing.assert_close(y, plain(made, x, context))
    got, want = (
        torch.autograd.grad(out.square().sum(), list(made.parameters())) for out in (y, plain(made, x, context))
    )
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


def parametrized(made: vf.MADE) -> None:
    class Doubled(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return 2 * weight

    parametrize.register_parametrization(made.layers[1], "weight", Doubled())


class Louder(vf.MaskedLinear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def subclassed(made: vf.MADE) -> None:
    made.layers[2].__class__ = Louder


def own_forward(made: vf.MADE) -> None:
    layer = made.layers[1]
    layer.forward = lambda x: 3 * vf.MaskedLinear.forward(layer, x)


def hooked(made: vf.MADE) -> None:
    made.layers[0].register_forward_hook(lambda layer, args, out: 2 * out)


def hooked_before(made: vf.MADE) -> None:
    made.layers[0].register_forward_pre_hook(lambda layer, args: (2 * args[0],))


def without_bias(made: vf.MADE) -> None:
    made.layers[1].bias = None


def other_activation(made: vf.MADE) -> None:
    made.layers[1].activation = "tanh"


def other_degrees(made: vf.MADE) -> None:
    old = made.layers[1]
    made.layers[1] = vf.MaskedLinear(old.in_degrees + 1, old.out_degrees, activation=old.activation)


CHANGES: dict[str, Callable[[vf.MADE], object]] = {
    "parametrized": parametrized,
    "weight norm": lambda made: weight_norm(made.layers[1]),
    "pruned": lambda made: prune.l1_unstructured(made.layers[1], "weight", 0.5),
    "subclass": subclassed,
    "own forward": own_forward,
    "hook": hooked,
    "hook before": hooked_before,
    "no bias": without_bias,
    "another activation": other_activation,
    "other degrees": other_degrees,
    "a layer more": lambda made: made.layers.append(nn.Tanh()),
    "replaced": lambda made: made.layers.__setitem__(2, nn.Linear(12, 10)),
    "backend of one": lambda made: setattr(made.layers[0], "backend", "reference"),
    "compiled": lambda made: made.layers[0].compile(backend="eager"),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize("name", CHANGES)
def test_what_was_done_to_a_layer_counts(name: str, calls: list[int]) -> None:
    made, x = vf.MADE(5, 12, 10), torch.randn(4, 5)
    CHANGES[name](made)
    y = made(x)
    assert calls == []
    for layer in made.layers:
        x = layer(x)
    assert y.equal(x)


def test_hooks_of_every_module_are_called(calls: list[int]) -> None:
    made, seen = vf.MADE(5, 12, 10), []
    handle = nn.modules.module.register_module_forward_hook(lambda layer, args, out: seen.append(type(layer)))
    try:
        made(torch.randn(2, 5))
    finally:
        handle.remove()
    assert calls == [] and seen.count(vf.MaskedLinear) == 3
    made(torch.randn(2, 5))
    assert calls == [3]


def test_a_gradient_hook_of_a_layer_is_called(calls: list[int]) -> None:
    made, seen = vf.MADE(5, 12, 10), []
    made.layers[1].register_full_backward_hook(lambda layer, before, after: seen.append(after[0].shape))
    made(torch.randn(2, 5)).sum().backward()
    assert calls == [] and seen == [(2, 12)]


def test_hooks_of_the_parameters_and_of_the_whole_are_no_reason(calls: list[int]) -> None:
    made, seen = vf.MADE(5, 12, 10), []
    made.layers[1].weight.register_hook(lambda grad: seen.append(grad.shape))
    made.register_forward_hook(lambda layer, args, out: seen.append(out.shape))
    made(torch.randn(2, 5)).sum().backward()
    assert calls == [3] and seen == [(2, 10), (12, 12)]


def test_copies_and_files_run_in_one_call_too(calls: list[int]) -> None:
    made, x = vf.MADE(5, 12, 10), torch.randn(3, 5)
    file = io.BytesIO()
    torch.save(made, file)
    file.seek(0)
    for other in (copy.deepcopy(made), torch.load(file, weights_only=False)):
        assert other(x).equal(made(x))
    assert calls == [3] * 4
    assert list(made.state_dict()) == [f"layers.{i}.{name}" for i in range(3) for name in ("weight", "bias")]


def test_layers_that_were_made_apart_run_in_one_call(calls: list[int]) -> None:
    """Degrees count, not whose list they are."""
    made = vf.MADE(5, 12, 10)
    old = made.layers[1]
    made.layers[1] = vf.MaskedLinear(old.in_degrees, old.out_degrees, activation=old.activation)
    x = torch.randn(3, 5)
    torch.testing.assert_close(made(x), plain(made, x))
    assert calls == [3]


def test_a_flow_runs_its_steps_in_one_call_each(calls: list[int]) -> None:
    vf.AutoregressiveFlow(6, 10, n_steps=3)(torch.randn(4, 6))
    assert calls == [3, 3, 3]


def test_frozen_layers_have_no_gradient(calls: list[int]) -> None:
    made, x = vf.MADE(5, 12, 10), torch.randn(4, 5)
    for parameter in made.layers[0].parameters():
        parameter.requires_grad_(False)
    made(x).square().sum().backward()
    assert calls == [3]
    got = {name: p.grad for name, p in made.named_parameters()}
    assert got["layers.0.weight"] is None and got["layers.0.bias"] is None
    other = copy.deepcopy(made)
    other.zero_grad()
    plain(other, x).square().sum().backward()
    for name, parameter in other.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(got[name], parameter.grad)
