"""The life of a model after `accelerate`: train, copy, save, hook, freeze, change masks, undo."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases.foreign import (
    CroppedConv,
    DataMaskedConv,
    Gated,
    ProductMaskedConv,
    ProductMaskedLinear,
    is_fast,
    made,
)
from cases.foreign_zoo import KeptMask
from cases.rows import require
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import vlae_fast as vf
from vlae_fast.foreign.swap import Swap, swap_of


def pixelcnn() -> nn.Sequential:
    """Every way in which a convolution is replaced, one of them within a gate."""
    return nn.Sequential(
        DataMaskedConv("A", 1, 8, 5, padding=2),
        CroppedConv(8, 8, (1, 1), right=True),
        Gated(ProductMaskedConv("B", 8, 8, 3, padding=1)),
        parametrizations.weight_norm(ProductMaskedConv("B", 4, 4, 3, padding=1)),
        nn.Conv2d(4, 1, 1),
    )


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "pixelcnn": (pixelcnn, lambda: torch.rand(3, 1, 6, 7)),
    "made": (made, lambda: torch.randn(3, 5)),
}


@pytest.fixture(params=MODELS)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module, vf.foreign.Report, Tensor]:
    """An accelerated model, the same as it was written, the report, inputs."""
    make, inputs = MODELS[request.param]
    model = make()
    plain = copy.deepcopy(model)
    return model, plain, vf.accelerate(model), inputs()


Case = tuple[nn.Module, nn.Module, Any, Tensor]


def test_optimizer_state_survives(case: Case) -> None:
    model, plain, report, x = case
    optimizers = [torch.optim.Adam(m.parameters(), 1e-2) for m in (model, plain)]
    report.undo()
    for step in range(9):
        if step == 3:
            report = vf.accelerate(model)
        if step == 6:
            report.undo()
        for m, optimizer in zip((model, plain), optimizers, strict=True):
            optimizer.zero_grad()
            m(x).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(model(x), plain(x), rtol=1e-4, atol=1e-4)
    assert all(optimizers[0].state[p]["step"] == 9 for p in model.parameters())


def test_copies_are_undone_one_by_one(case: Case) -> None:
    model, plain, report, x = case
    other, third = copy.deepcopy(model), copy.deepcopy(model)
    vf.accelerate(other).undo()
    assert is_fast(model) and not is_fast(other) and is_fast(third)
    report.undo()
    assert not is_fast(model) and is_fast(third)
    for m in (model, other, third):
        torch.testing.assert_close(m(x), plain(x))
    with torch.no_grad():
        next(third.parameters()).zero_()
    torch.testing.assert_close(model(x), plain(x))


@pytest.mark.parametrize("into_fast", [False, True])
def test_files(case: Case, into_fast: bool) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    model, other, _, x = case
    file = safetensors.save(model.state_dict())
    for p in other.parameters():
        nn.init.normal_(p)
    if into_fast:
        vf.accelerate(other)
    other.load_state_dict(safetensors.load(file))
    assert is_fast(other) == into_fast
    torch.testing.assert_close(other(x), model(x))
    other.load_state_dict(safetensors.load(file), assign=True)
    assert is_fast(other) == into_fast
    torch.testing.assert_close(other(x), model(x))


HOOKS = (
    "register_forward_pre_hook",
    "register_forward_hook",
    "register_full_backward_pre_hook",
    "register_full_backward_hook",
)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing when gradients are computed:UserWarning")
@pytest.mark.parametrize("before", [True, False], ids=["hooked before", "hooked after"])
def test_hooks_of_every_kind_fire(case: Case, before: bool) -> None:
    model, plain, report, x = case
    if before:
        report.undo()
    fired: dict[nn.Module, list[Any]] = {model: [], plain: []}
    for m, seen in fired.items():
        for path, layer in m.named_modules():
            for register in HOOKS:
                name = f"{path} {register}"
                getattr(layer, register)(lambda _, *tensors, name=name, seen=seen: seen.append((name, tensors)))
    if before:
        vf.accelerate(model)
        assert not fired[model]
    for m in fired:
        m(x.clone().requires_grad_()).square().mean().backward()
    assert [name for name, _ in fired[model]] == [name for name, _ in fired[plain]]
    for (_, got), (_, want) in zip(*fired.values(), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_frozen_weights(case: Case) -> None:
    model, plain, report, x = case
    report.undo()
    for m in (model, plain):
        for name, p in m.named_parameters():
            p.requires_grad_("bias" in name)
    report = vf.accelerate(model)
    assert is_fast(model)
    for m in (model, plain):
        m(x).square().mean().backward()
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_afterwards(case: Case, dtype: torch.dtype) -> None:
    model, plain, _, x = case
    got, want = model.to(dtype)(x.to(dtype)), plain.to(dtype)(x.to(dtype))
    assert is_fast(model) and got.dtype == want.dtype
    tolerance = 1e-9 if dtype == torch.float64 else 0.05
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


def test_autocast_as_before(case: Case) -> None:
    model, plain, _, x = case
    with torch.autocast("cpu", torch.bfloat16):
        got, want = model(x), plain(x)
    torch.testing.assert_close(got, want, rtol=0.05, atol=0.05)


def test_a_named_backend_says_that_it_has_no_such_dtype() -> None:
    model = made()
    vf.accelerate(model, backend=require("cpu"))
    with pytest.raises(RuntimeError, match=r"masked_linear: backend 'cpu' cannot run this: .*float64"):
        model.double()(torch.randn(3, 5).double())


def test_a_layer_in_several_places() -> None:
    conv = ProductMaskedConv("B", 2, 4, 3, padding=1)
    model = nn.Sequential(Gated(conv), nn.ModuleList([conv])[0], nn.Conv2d(4, 2, 1), Gated(conv), nn.ReLU())
    plain, x = copy.deepcopy(model), torch.randn(2, 2, 5, 6)
    report = vf.accelerate(model)
    assert report.replaced == ["0.conv", "0"], str(report)
    torch.testing.assert_close(model(x), plain(x))
    torch.testing.assert_close(nn.DataParallel(model)(x), plain(x))
    report.undo()
    assert not is_fast(model)


@pytest.mark.usefixtures("_fresh_dynamo")
def test_a_model_that_is_compiled_already() -> None:
    model, x = made(), torch.randn(3, 5)
    plain = copy.deepcopy(model)
    compiled = torch.compile(model, backend="aot_eager")
    compiled(x)
    report = vf.accelerate(compiled)
    assert report.replaced == [f"_orig_mod.{i}" for i in (0, 2, 4)]
    torch.testing.assert_close(compiled(x), plain(x))
    report.undo()
    torch.testing.assert_close(compiled(x), plain(x))


def turn(layer: Any) -> Tensor:
    return layer.mask.flip(-1)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "zeros": lambda layer: layer.mask.zero_(),
    "copy": lambda layer: layer.mask.copy_(turn(layer)),
    "one entry": lambda layer: layer.mask.view(-1)[:1].add_(1),
    "assignment": lambda layer: setattr(layer, "mask", turn(layer)),
    "assignment of data": lambda layer: setattr(layer.mask, "data", turn(layer).clone()),
    "load_state_dict": lambda layer: layer.load_state_dict({**layer.state_dict(), "mask": turn(layer)}),
}


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("name", CHANGES)
def test_a_mask_that_changes_gives_the_own_forward_back(name: str, gated: bool) -> None:
    layer = ProductMaskedConv("B", 4, 4, 3, padding=1) if gated else ProductMaskedLinear(torch.ones(4, 4).tril())
    model, x = Gated(layer) if gated else layer, torch.randn(2, 4, 5, 4) if gated else torch.randn(2, 4)
    report = vf.accelerate(model)
    model(x)
    with pytest.warns(UserWarning, match=r"accelerate: mask of a \w+ has changed, and the module has its own forward"):
        with torch.no_grad():
            CHANGES[name](layer)
        got = model(x)
    assert not is_fast(model)
    torch.testing.assert_close(got, model(x))
    plain = copy.deepcopy(model)
    report.undo()
    torch.testing.assert_close(got, plain(x))


@pytest.mark.parametrize("keep", ["unsaved", "attribute", "parameter"])
def test_masks_that_are_no_saved_buffers_are_looked_at_too(keep: str) -> None:
    layer = KeptMask(keep)
    vf.accelerate(layer)
    with torch.no_grad():
        layer.mask.zero_()
    with pytest.warns(UserWarning, match="mask of a KeptMask has changed"):
        layer(torch.rand(1, 3, 4, 4))
    assert not is_fast(layer)


class Tuned(nn.Module):
    """An activation of a convolution as long as nobody tunes it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.scale = ProductMaskedConv("B", 4, 4, 3, padding=1), nn.ReLU(), 1.0
        self.register_buffer("gain", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x)) * self.gain * self.scale


TUNINGS: dict[str, Callable[[Any], Any]] = {
    "scale": lambda model: setattr(model, "scale", 3.0),
    "gain": lambda model: model.gain.fill_(3.0),
    "a part": lambda model: setattr(model, "conv", ProductMaskedConv("B", 4, 4, 3, padding=1)),
    "a part ": lambda model: setattr(model, "act", nn.Tanh()),
}


@pytest.mark.parametrize("name", TUNINGS)
def test_what_changes_around_a_layer_gives_the_own_forward_back(name: str) -> None:
    model, x = Tuned(), torch.randn(2, 4, 5, 6)
    assert vf.accelerate(model).replaced == ["conv", ""]
    copied = copy.deepcopy(model)
    TUNINGS[name](model)
    with pytest.warns(UserWarning, match=f"accelerate: {name.strip()} of a Tuned has changed"):
        got = model(x)
    assert swap_of(model, Swap) is None and swap_of(copied, Swap) is not None
    torch.testing.assert_close(got, model.act(model.conv(x)) * model.gain * model.scale)
    copied(x)
    assert swap_of(copied, Swap) is not None


@pytest.mark.filterwarnings("error")
def test_a_mask_that_is_written_with_what_it_was_stays(case: Case) -> None:
    model, plain, _, x = case
    for buffer in model.buffers():  # as DistributedDataParallel does in every forward
        buffer.copy_(buffer.clone())
    torch.testing.assert_close(model(x), plain(x))
    model.to(torch.float64).to(torch.float32)
    torch.testing.assert_close(model(x), plain(x))
    state = {name: t.detach().clone() for name, t in model.state_dict().items()}
    torch.testing.assert_close(torch.func.functional_call(model, state, (x,)), plain(x))
    with torch.inference_mode():
        model(x)
    assert is_fast(model)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_stacked_models(case: Case) -> None:
    model, plain, _, x = case
    parameters, buffers = torch.func.stack_module_state([copy.deepcopy(model) for _ in range(2)])

    def call(*state: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(model, state, (x,))

    got = torch.vmap(call, in_dims=(0, None))(parameters, dict(model.named_buffers()))
    torch.testing.assert_close(got, torch.stack([plain(x)] * 2))
    if not any(
        isinstance(part, DataMaskedConv) and type(part).forward is not ProductMaskedConv.forward for part in plain
    ):
        torch.testing.assert_close(torch.vmap(call)(parameters, buffers), torch.stack([plain(x)] * 2))
    assert is_fast(model)


@pytest.mark.parametrize("name", MODELS)
def test_second_derivatives_are_those_of_the_model(name: str) -> None:
    """A gradient penalty, whose gradient goes through every layer twice."""
    torch.manual_seed(0)
    make, inputs = MODELS[name]
    plain, x = make(), inputs()
    fast = copy.deepcopy(plain)
    assert vf.accelerate(fast).replaced

    def penalty(model: nn.Module) -> list[Tensor]:
        at = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(model(at).square().sum(), at, create_graph=True)
        used = torch.autograd.grad(grad.square().sum(), list(model.parameters()), allow_unused=True)
        given = zip(used, model.parameters(), strict=True)
        return [torch.zeros(()) if g is None else g * (p != 0) for g, p in given]  # a dead weight that is 0 has none

    expected = penalty(plain)
    assert any(g.abs().max() > 0 for g in expected)
    for got, own in zip(penalty(fast), expected, strict=True):
        torch.testing.assert_close(got, own, rtol=1e-4, atol=1e-5 * own.abs().max().item())


def test_parameters_stay_the_same_objects_and_state_dicts_the_same() -> None:
    model = pixelcnn()
    model(torch.rand(1, 1, 6, 7))  # a convolution of this kind writes zeros to its weight when it runs
    before = dict(model.named_parameters())
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert vf.accelerate(model).replaced
    assert {name: id(p) for name, p in model.named_parameters()} == {name: id(p) for name, p in before.items()}
    after = model.state_dict()
    assert list(after) == list(state) and all(after[name].equal(tensor) for name, tensor in state.items())
