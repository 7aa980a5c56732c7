"""`accelerate` and `fast_sampler` on what people write: the same function, or left alone for a true reason."""

import copy
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases.foreign import ProductMaskedConv, ProductMaskedLinear, is_fast, randomized
from cases.foreign_zoo import (
    CyclingLinear,
    FilledConv,
    GroupedMask,
    KeptMask,
    MaskedFlow,
    ResidualPixelCNN,
    ShiftedResnet,
    Snail,
)
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm

import vlae_fast as vf

KEPT: dict[str, Callable[[], nn.Module]] = {
    "buffer [1, 1, k, k]": lambda: KeptMask("buffer", "1x1"),
    "buffer [k, k]": lambda: KeptMask("buffer", "kernel"),
    "buffer, not saved": lambda: KeptMask("unsaved"),
    "boolean buffer": lambda: KeptMask("buffer", dtype=torch.bool),
    "integer buffer": lambda: KeptMask("buffer", dtype=torch.uint8),
    "attribute": lambda: KeptMask("attribute"),
    "dilated": lambda: KeptMask("buffer", padding=2, dilation=2),
    "dilated to the sides": lambda: KeptMask("buffer", padding=(1, 3), dilation=(1, 3)),
    "frozen parameter": lambda: KeptMask("parameter"),
    "frozen parameter [k, k]": lambda: KeptMask("parameter", "kernel"),
    "boolean parameter, weight_norm": lambda: parametrizations.weight_norm(KeptMask("parameter", dtype=torch.bool)),
    "made in every call": lambda: FilledConv("buffer"),
}


def results(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Outputs, then the gradients of all that is trained."""
    torch.manual_seed(3)
    out = model(x)
    out = list(out) if isinstance(out, tuple) else [out]
    trained = [p for p in model.parameters() if p.requires_grad]
    loss = sum(t.square().mean() for t in out)
    return [*(t.detach() for t in out), *torch.autograd.grad(loss, trained)]


@pytest.mark.parametrize("name", KEPT)
def test_wherever_the_mask_is_kept(name: str) -> None:
    model, x = KEPT[name](), torch.randn(2, 3, 6, 5)
    plain = copy.deepcopy(model)
    report = vf.accelerate(model)
    assert report.replaced == [""] and report.rows[0].now.startswith("masked_conv B 3x3"), str(report)
    torch.testing.assert_close(results(model, x), results(plain, x))
    assert all(a.equal(b) for a, b in zip(model.state_dict().values(), plain.state_dict().values(), strict=True))


class WithLock(ProductMaskedLinear):
    def __init__(self) -> None:
        super().__init__(torch.ones(3, 3).tril())
        self.lock = threading.Lock()


class Renamed(nn.Linear):
    """Its numbers under other names."""

    def __init__(self, parameter: bool) -> None:
        super().__init__(3, 3, bias=False)
        weight = self.weight.data.tril()
        del self.weight
        if parameter:
            self.kernel = nn.Parameter(weight)
        else:
            self.register_buffer("weight", weight)

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.kernel if hasattr(self, "kernel") else self.weight).T


class Subclass(nn.Linear):
    pass


def triangular() -> ProductMaskedLinear:
    return ProductMaskedLinear(torch.ones(3, 3).tril())


LEFT_ALONE: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "dilated, the image padded for a plain kernel": (lambda: KeptMask("buffer", dilation=2), "not one of its size"),
    "strided": (lambda: KeptMask("buffer", stride=2), "stride must be (1, 1), it has (2, 2)"),
    "grouped": (GroupedMask, "groups must be 1, it has 2"),
    "another mask in every call": (lambda: CyclingLinear([torch.ones(4, 4).tril(), torch.ones(4, 4).triu()]), "writes"),
    "mask of another dtype": (lambda: KeptMask("attribute").bfloat16(), "its forward raises RuntimeError: "),
    "spectral_norm": (lambda: spectral_norm(triangular()), "its forward writes to weight_u"),
    "parametrized spectral_norm": (
        lambda: parametrizations.spectral_norm(triangular()),
        "its forward writes to parametrizations.weight.0._u",
    ),
    "not to be copied": (WithLock, "a copy of it raises TypeError: cannot pickle '_thread.lock'"),
    "weight of another name": (lambda: Renamed(True), "it has no weight"),
    "weight in a buffer": (lambda: Renamed(False), "it has no parameters to train"),
    "complex": (lambda: triangular().to(torch.complex64), "its parameters are torch.complex64"),
    "8 bits": (lambda: triangular().to(torch.float8_e4m3fn), "its parameters are torch.float8_e4m3fn"),
    "no inputs": (lambda: Subclass(0, 3), "its weight is empty: (3, 0)"),
    "no outputs": (lambda: Subclass(3, 0), "its weight is empty: (0, 3)"),
    "attention of torch": (lambda: nn.MultiheadAttention(4, 2), "none of its weights is dead"),
    "lazy": (lambda: nn.LazyConv2d(3, 3), "its weights have no values yet"),
}


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors:UserWarning")
@pytest.mark.filterwarnings("ignore:Complex modules are a new feature:UserWarning")
@pytest.mark.filterwarnings("ignore:.*spectral_norm. is deprecated")
@pytest.mark.parametrize("name", LEFT_ALONE)
def test_left_alone_with_the_reason(name: str) -> None:
    make, why = LEFT_ALONE[name]
    model = make()
    before = [(p, p._version) for p in [*model.parameters(), *model.buffers()]]
    report = vf.accelerate(model)
    assert report.replaced == [] and why in next(iter(report.left_alone.values())), str(report)
    assert not is_fast(model)
    assert all(p._version == version for p, version in before)


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], list[str], dict[str, str]]] = {
    "residual bottlenecks": (
        ResidualPixelCNN,
        (2, 1, 6, 5),
        ["first", "blocks.0.convs.1", "blocks.1.convs.1"],
        {"blocks.0.convs.0": "a plain layer"},
    ),
    "snail": (
        Snail,
        (2, 1, 6, 5),
        [],
        {"causal.0": "nothing to save", "attention.query_key": "a plain layer", "attention.value": "a plain layer"},
    ),
    "shifted": (ShiftedResnet, (2, 1, 6, 5), [], {"first": "nothing to save", "enter.conv": "not one of its size"}),
    "flow with batch normalisation": (
        lambda: MaskedFlow(dropout=0.3),
        (4, 5),
        [f"nets.{step}.{layer}" for step in (0, 1) for layer in (0, 2, 5)],
        {},
    ),
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_models(name: str, training: bool) -> None:
    make, shape, replaced, left_alone = MODELS[name]
    model, x = randomized(make()).train(training), torch.rand(shape)
    plain = copy.deepcopy(model)
    report = vf.accelerate(model)
    assert report.replaced == replaced, str(report)
    assert all(why in report.left_alone[path] for path, why in left_alone.items()), str(report)
    torch.testing.assert_close(results(model, x), results(plain, x), rtol=1e-4, atol=1e-4)
    assert model.state_dict().keys() == plain.state_dict().keys()
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[key])


@pytest.mark.parametrize(
    "make",
    [ResidualPixelCNN, lambda: ShiftedResnet(tanh=True), ShiftedResnet],
    ids=["residual", "shifted", "a sigmoid(b)"],
)
@pytest.mark.parametrize("accelerated", [False, True])
def test_fast_sampler_draws_the_same(make: Callable[[], nn.Module], accelerated: bool) -> None:
    decoder = randomized(make())
    if accelerated:
        vf.accelerate(decoder)
    sampler, noise = vf.fast_sampler(decoder, (1, 6, 5)), torch.rand(4, 1, 6, 5)
    assert sampler.sample(None, noise).equal(vf.naive_sample(sampler.decoder, None, noise))


class Film(nn.Module):
    """Features scaled and shifted by z, channel by channel."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.of_z = ProductMaskedConv("A", 1, 4, 3, padding=1), nn.Linear(3, 8)
        self.last = nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        gamma, beta = self.of_z(z)[:, :, None, None].chunk(2, 1)
        return self.last((gamma * self.first(x) + beta).relu())


def rgb() -> nn.Module:
    """Masks under which G of a pixel sees its R, and B both."""
    first, *rest = (
        ProductMaskedConv(kind, inputs, outputs, k, padding=k // 2, thirds=True)
        for kind, inputs, outputs, k in (("A", 3, 6, 3), ("B", 6, 6, 3), ("B", 6, 3, 1))
    )
    return nn.Sequential(first, nn.ReLU(), rest[0], nn.ReLU(), rest[1])


@pytest.mark.parametrize(
    ("make", "channels", "z"),
    [(Film, 1, torch.randn(4, 3)), (rgb, 3, None), (Snail, 1, None)],
    ids=["FiLM", "RGB", "attention"],
)
def test_fast_sampler_draws_what_naive_sampling_draws(
    make: Callable[[], nn.Module], channels: int, z: Tensor | None
) -> None:
    decoder = randomized(make())
    sampler = vf.fast_sampler(decoder, (channels, 6, 5), latent_dim=0 if z is None else 3)
    noise = torch.rand(4, channels, 6, 5)
    assert sampler.sample(z, noise).equal(vf.naive_sample(sampler.decoder, z, noise))


REFUSED: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], str]] = {
    "not to be copied": (
        WithLock,
        {},
        "fast_sampler: decoder must be one that can be copied, got one where a copy of it raises TypeError",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_fast_sampler_says_what_stops_it(name: str) -> None:
    make, options, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        vf.fast_sampler(make(), (3 if name == "RGB" else 1, 5, 4), **options)


def test_rgb_masks_are_accelerated() -> None:
    model, x = rgb(), torch.rand(2, 3, 5, 4)
    plain = copy.deepcopy(model)
    report = vf.accelerate(model)
    assert report.replaced == ["0", "2"], str(report)
    torch.testing.assert_close(results(model, x), results(plain, x))


@pytest.mark.parametrize(
    "around",
    [torch.no_grad, torch.inference_mode, lambda: torch.device("meta"), lambda: torch.autocast("cpu", torch.bfloat16)],
    ids=["no_grad", "inference_mode", "default device", "autocast"],
)
def test_in_whatever_mode_it_is_called(around: Callable[[], Any]) -> None:
    model = nn.Sequential(ProductMaskedConv("B", 3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(2), triangular())
    x, plain, state = torch.rand(2, 3, 1, 3), copy.deepcopy(model), torch.get_rng_state()
    with around():
        assert vf.accelerate(model).replaced == ["0", "3"]
    assert torch.get_rng_state().equal(state)
    torch.testing.assert_close(results(model, x), results(plain, x))
