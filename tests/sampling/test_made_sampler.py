"""MADESampler: ours and other people's MADEs, against D passes of the module itself."""

import copy
import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from cases.rows import backends_of, require
from torch import nn

import vlae_fast as vf

DIM = 9


def by_passes(
    made: Callable[[torch.Tensor], torch.Tensor], noise: torch.Tensor, values: tuple[float, float] = (0.0, 1.0)
) -> tuple[torch.Tensor, torch.Tensor]:
    """made gives logits. The bits of x after D passes, and log p(x) in nats; values: what made is given for them."""
    low, high = values
    x = torch.full_like(noise, low)
    with torch.no_grad():
        for _ in range(noise.shape[1]):
            x = torch.where(noise < torch.sigmoid(made(x)), high, low)
        p = torch.sigmoid(made(x).double())
    bits = (x == high).float()
    return bits, torch.where(x == high, p, 1 - p).log().sum(1).float()


def uniform(n: int, dim: int = DIM, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, dim, generator=torch.Generator().manual_seed(seed))


def our_made(**options: object) -> vf.MADE:
    torch.manual_seed(0)
    made = vf.MADE(DIM, 24, DIM, **options)
    for parameter in made.parameters():
        parameter.data *= 3
    return made


@pytest.mark.parametrize("backend", backends_of("made_sample"))
@pytest.mark.parametrize("values", [(0.0, 1.0), (-1.0, 1.0), (0.5, -2.0)], ids=str)
def test_is_d_passes(values: tuple[float, float], backend: str) -> None:
    made, noise = our_made(activation="tanh"), uniform(20)
    sampler = vf.MADESampler(made, require(backend), pixels=values)
    x, log_prob = sampler.sample_with_log_prob(noise=noise)
    want, of_want = by_passes(made, noise, values)
    assert x.equal(want) and sampler.backend == backend
    torch.testing.assert_close(log_prob, of_want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", backends_of("made_sample"))
@pytest.mark.parametrize("temperature", [1e-30, 1e-39, 1e-46, 1e-100])
def test_cold_bits_are_the_likelier_ones(temperature: float, backend: str) -> None:
    made = our_made()
    x, log_prob = vf.MADESampler(made, require(backend)).sample_with_log_prob(
        noise=uniform(20), temperature=temperature
    )
    assert x.equal((made(x) > 0).float())
    assert -1e-30 < log_prob.min() and log_prob.max() <= 0  # the CPU library has 1e-37 for a zero


def test_context_temperature_and_generator() -> None:
    made = our_made(context_dim=3)
    sampler, context, noise = vf.MADESampler(made), torch.randn(20, 3), uniform(20)
    x, log_prob = sampler.sample_with_log_prob(noise=noise, context=context, temperature=0.5)
    want, of_want = by_passes(lambda x: made(x, context) / 0.5, noise)
    assert x.equal(want)
    torch.testing.assert_close(log_prob, of_want, rtol=1e-4, atol=1e-4)
    one, other = (sampler.sample(context=context, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert one.equal(other) and one.shape == (20, DIM)


@pytest.mark.parametrize("context_dim", [0, 3])
def test_weights_are_those_of_the_moment_until_refreshed(context_dim: int) -> None:
    made, noise = our_made(context_dim=context_dim), uniform(50)
    context = torch.randn(50, context_dim) if context_dim else None

    def drawn() -> torch.Tensor:
        return by_passes(lambda x: made(x, context), noise)[0]

    sampler, before = vf.MADESampler(made), drawn()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.neg_()
    assert sampler.sample(noise=noise, context=context).equal(before)
    sampler.refresh()
    after = drawn()
    assert sampler.sample(noise=noise, context=context).equal(after) and not after.equal(before)


class Masked(nn.Linear):
    def __init__(self, before: torch.Tensor, after: torch.Tensor) -> None:
        super().__init__(len(before), len(after))
        self.register_buffer("mask", (after[:, None] >= before).float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)


def their_made(activation: Callable[[], nn.Module], *end: nn.Module) -> nn.Sequential:
    """Inputs in any order, random hidden degrees."""
    torch.manual_seed(1)
    inputs = torch.randperm(DIM) + 1
    first, second = torch.randint(0, DIM, (20,)), torch.randint(0, DIM, (31,))
    made = nn.Sequential(
        Masked(inputs, first), activation(), Masked(first, second), activation(), Masked(second, inputs - 1), *end
    )
    for parameter in made.parameters():
        parameter.data *= 3
    return made


@pytest.mark.parametrize("make", [lambda: our_made(), lambda: accelerated()], ids=["ours", "accelerated"])
def test_fast_sampler_takes_layers_of_this_package(make: Callable[[], nn.Module]) -> None:
    made, noise = make(), uniform(60)
    assert vf.fast_sampler(made, (DIM,)).sample(noise=noise).equal(by_passes(made, noise)[0])


def accelerated() -> nn.Module:
    made = their_made(nn.ReLU)
    assert vf.accelerate(made, measure=False).replaced == ["0", "2", "4"]
    return made


@pytest.mark.parametrize(
    "activation",
    [nn.ReLU, nn.ELU, nn.Tanh, nn.LeakyReLU, nn.PReLU, nn.Identity, lambda: nn.Sequential(nn.Dropout(0.5), nn.ReLU())],
    ids=["ReLU", "ELU", "Tanh", "LeakyReLU", "PReLU", "none", "dropout"],
)
@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("values", [(0.0, 1.0), (-1.0, 1.0)], ids=str)
def test_other_peoples(activation: Callable[[], nn.Module], probabilities: bool, values: tuple[float, float]) -> None:
    made = their_made(activation, *([nn.Sigmoid()] if probabilities else []))
    noise = uniform(60)
    x, log_prob = vf.fast_sampler(made, (DIM,), pixels=values).sample_with_log_prob(noise=noise)
    assert made.training  # as it was
    logits = copy.deepcopy(made).eval()
    want, of_want = by_passes((lambda x: torch.logit(logits(x))) if probabilities else logits, noise, values)
    assert x.equal(want)
    torch.testing.assert_close(log_prob, of_want, rtol=1e-4, atol=1e-4)


class Skip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        inputs = torch.arange(DIM) + 1
        self.first, self.last, self.direct = (
            Masked(inputs, inputs),
            Masked(inputs, inputs - 1),
            Masked(inputs, inputs - 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.tanh(self.first(x))) + self.direct(x)


@pytest.mark.parametrize(
    ("made", "rule"),
    [
        (
            nn.Sequential(nn.Linear(DIM, DIM)),
            "those before it, got: it is not autoregressive: dimension 0 depends on itself",
        ),
        (
            their_made(nn.GELU),
            "(relu, elu, tanh, leaky_relu, prelu) in turn, where x is a vector, got gelu in GELU at '1'",
        ),
        (
            nn.Sequential(their_made(nn.ReLU), nn.Linear(DIM, 4)),
            f"must give [B, {DIM}], a logit a dimension, got 4 numbers",
        ),
        (their_made(nn.ReLU, nn.Softmax(1), nn.ReLU()), "got softmax before the end in Softmax at '5'"),
        (their_made(nn.ReLU, nn.Sigmoid(), nn.ReLU()), "one kind of activation (a sigmoid is tanh), got relu, tanh"),
        (Skip(), "a sum over layers (a skip connection) must be of a decoder whose activation is relu, got tanh"),
    ],
    ids=["dense", "gelu", "outputs", "softmax", "sigmoid", "skip"],
)
def test_refusals(made: nn.Module, rule: str) -> None:
    with pytest.raises(ValueError, match=re.escape(rule)):
        vf.fast_sampler(made, (DIM,))


def test_errors() -> None:
    with pytest.raises(
        ValueError, match=re.escape(f"made must have output_dim = input_dim = {DIM}, a logit each, got 18")
    ):
        vf.MADESampler(vf.MADE(DIM, 8, 2 * DIM))
    with pytest.raises(TypeError, match="made must be a MADE, got Linear: see vlae_fast"):
        vf.MADESampler(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="pixels must be two finite numbers that differ"):
        vf.MADESampler(our_made(), pixels=(1, 1))
    sampler = vf.MADESampler(our_made())
    with pytest.raises(ValueError, match="context must be None for a MADE without one"):
        sampler.sample(context=torch.zeros(1, 3))
    with pytest.raises(ValueError, match=re.escape("context must be [B, 2], got (4, 3)")):
        vf.MADESampler(our_made(context_dim=2)).sample(context=torch.zeros(4, 3))
    with pytest.raises(ValueError, match=re.escape("n must be None or the rows of noise, 5, got 3")):
        sampler.sample(3, uniform(5))
    with pytest.raises(ValueError, match="temperature must be in"):
        sampler.sample(temperature=0)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"latent_dim": 3}, "latent_dim must not be given for vectors (9,), got 3"),
        ({"layout": "BCKHW"}, "layout must not be given for vectors (9,), got 'BCKHW'"),
        ({"pixels": "index"}, "pixels must be (low, high) for vectors (9,), got 'index'"),
    ],
)
def test_options_of_images_are_refused(options: dict, rule: str) -> None:
    with pytest.raises(ValueError, match=re.escape(rule)):
        vf.fast_sampler(their_made(nn.ReLU), (DIM,), **options)


def test_weights_that_are_not_finite_are_refused() -> None:
    """Bits of such logits are 0, whatever the noise. What a mask hides is not looked at."""
    made = our_made()
    sampler, first = vf.MADESampler(made), made.masked_layers()[0]
    dead = ~first.mask
    assert dead.any()
    with torch.no_grad():
        first.weight[dead] = float("nan")
        sampler.refresh()
        want = sampler.sample(noise=uniform(4))
        first.weight[~dead] = float("nan")
    with pytest.raises(ValueError, match="MADESampler: weights and bias of layer 0 must be finite, got nan or inf"):
        sampler.refresh()
    assert sampler.sample(noise=uniform(4)).equal(want)  # it stays what it was
