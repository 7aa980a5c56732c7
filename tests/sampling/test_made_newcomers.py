"""MADEs of a later round of public code: batch normalisation, sigmoids, NADE's loops, distributions, guards."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, distributions, nn

import vlae_fast as vf

DIM, HIDDEN, K = 7, 20, 4
OWN, DEGREES = torch.arange(DIM), torch.arange(HIDDEN) % (DIM - 1)


class Masked(nn.Linear):
    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask.float())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)


def first(inputs: int = 1) -> Masked:
    return Masked(DEGREES[:, None] >= OWN.repeat_interleave(inputs))


def last(outputs: int = 1) -> Masked:
    return Masked(OWN.repeat_interleave(outputs)[:, None] > DEGREES)


def made(*between: nn.Module) -> nn.Sequential:
    return nn.Sequential(first(), *between, Masked(DEGREES[:, None] >= DEGREES), nn.ReLU(), last())


class Net(nn.Module):
    """A function of x and of a MADE."""

    def __init__(self, function: Callable[[Any, Tensor], Any], net: nn.Module | None = None) -> None:
        super().__init__()
        self.function, self.net = function, net or made(nn.ReLU())
        self.start = nn.Parameter(torch.zeros(1, 1))

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


class NADE(nn.Module):
    """A hidden layer for each dimension, of a sum that grows."""

    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.into, self.out = nn.Parameter(torch.zeros(9, DIM)), nn.Parameter(torch.zeros(DIM, 9))
        self.before, self.bias, self.activation = (
            nn.Parameter(torch.zeros(9)),
            nn.Parameter(torch.zeros(DIM)),
            activation,
        )

    def forward(self, x: Tensor) -> Tensor:
        seen, out = self.before.expand(len(x), 9), []
        for d in range(DIM):
            out.append(torch.sigmoid(self.activation(seen) @ self.out[d] + self.bias[d]))
            seen = seen + x[:, d : d + 1] * self.into[:, d]
        return torch.stack(out, 1)


class Sums(NADE):
    """The same by sums over the dimensions before."""

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.cat([torch.zeros(len(x), 1, 9), x[:, :-1, None] * self.into.T[:-1]], 1)
        return torch.sigmoid((self.activation(parts.cumsum(1) + self.before) * self.out).sum(-1) + self.bias)


def guarded(net: Any, x: Tensor) -> Tensor:
    out = net.net(x)
    assert not torch.isnan(out).any()
    return out


def permuted(net: Any, x: Tensor) -> Tensor:
    order = torch.tensor([3, 0, 6, 2, 5, 1, 4])
    return net.net(x[:, order])[:, order.argsort()]


def identity(v: Tensor) -> Tensor:
    return v


BITS: dict[str, tuple[Callable[[], nn.Module], Callable[[Any], Tensor]]] = {
    "batch normalisation": (lambda: made(nn.BatchNorm1d(HIDDEN), nn.ReLU()), torch.sigmoid),
    "batch normalisation behind": (lambda: made(nn.ReLU(), nn.BatchNorm1d(HIDDEN, affine=False)), torch.sigmoid),
    "sigmoids": (lambda: nn.Sequential(first(), nn.Sigmoid(), last()), torch.sigmoid),
    "two layers of sigmoids": (lambda: nn.Sequential(first(), nn.Sigmoid(), last(), nn.Sigmoid()), identity),
    "hardtanh": (lambda: made(nn.Hardtanh()), torch.sigmoid),
    "relu6": (lambda: made(nn.ReLU6()), torch.sigmoid),
    "rrelu": (lambda: made(nn.RReLU()), torch.sigmoid),
    "celu": (lambda: nn.Sequential(first(), nn.CELU(), last()), torch.sigmoid),
    "a clamp below": (lambda: Net(lambda net, x: net.net(x).clamp(min=-1)), torch.sigmoid),
    "a clamp above": (lambda: Net(lambda net, x: net.net(x).clamp(max=1)), torch.sigmoid),
    "clipped probabilities": (lambda: Net(lambda net, x: net.net(x).sigmoid().clamp(0.3, 0.6)), identity),
    "a dict": (lambda: Net(lambda net, x: {"logits": net.net(x)}), lambda out: out["logits"].sigmoid()),
    "a tuple": (lambda: Net(lambda net, x: (net.net(x), None)), lambda out: out[0].sigmoid()),
    "logits of a distribution": (
        lambda: Net(lambda net, x: distributions.Bernoulli(logits=net.net(x))),
        lambda out: out.probs,
    ),
    "probabilities of a distribution": (
        lambda: Net(lambda net, x: distributions.Independent(distributions.Bernoulli(net.net(x).sigmoid()), 1)),
        lambda out: out.mean,
    ),
    "a guard": (lambda: Net(guarded), torch.sigmoid),
    "a permutation": (lambda: Net(permuted), torch.sigmoid),
    "a first bias": (
        lambda: Net(lambda net, x: torch.cat([net.start.expand(len(x), 1), net.net(x)[:, 1:]], 1)),
        torch.sigmoid,
    ),
    "NADE": (lambda: NADE(torch.sigmoid), identity),
    "NADE of relus": (lambda: NADE(torch.relu), identity),
    "sums of all before": (lambda: Sums(torch.relu), identity),
}


def randomized(net: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for part in net.modules():
        if isinstance(part, nn.BatchNorm1d):
            nn.init.normal_(part.running_mean, std=0.3)
            nn.init.uniform_(part.running_var, 0.5, 2)
    for p in net.parameters():
        nn.init.normal_(p, std=0.6)
    return net.eval()


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("name", BITS)
def test_bits_are_those_of_as_many_passes(name: str, backend: str) -> None:
    make, probabilities = BITS[name]
    net, noise = randomized(make()), torch.rand(50, DIM)
    x = torch.zeros(50, DIM)
    with torch.no_grad():
        for _ in range(DIM):
            x = (noise < probabilities(net(x))).float()
    assert 0.05 < x.mean() < 0.95
    assert vf.fast_sampler(net, (DIM,), backend=backend).sample(noise=noise).equal(x)


class Levels(nn.Module):
    """Embeddings, batch normalisation, and a distribution of all levels."""

    def __init__(self) -> None:
        super().__init__()
        self.codes = nn.Embedding(K, 3)
        self.net = nn.Sequential(first(3), nn.BatchNorm1d(HIDDEN), nn.LeakyReLU(), last(K), nn.Unflatten(1, (DIM, K)))

    def forward(self, x: Tensor) -> distributions.Categorical:
        return distributions.Categorical(logits=self.net(self.codes(x).flatten(1)))


def test_levels_are_those_of_a_pass_each() -> None:
    net, noise = randomized(Levels()), torch.rand(50, DIM)
    x = torch.zeros(50, DIM, dtype=torch.int64)
    with torch.no_grad():
        for d in range(DIM):
            x[:, d] = (net(x).probs[:, d].double().cumsum(1) <= noise[:, d : d + 1]).sum(1).clamp(max=K - 1)
    assert len(x.unique()) == K
    assert vf.fast_sampler(net, (DIM,), levels=K).sample(noise=noise).equal(x)


def test_an_entry_of_what_is_returned() -> None:
    net = Net(lambda net, x: (-net.net(x), net.net(x)))
    with pytest.raises(ValueError, match="output must name one entry of what decoder returns"):
        vf.fast_sampler(randomized(net), (DIM,))
    noise = torch.rand(9, DIM)
    own = vf.fast_sampler(net.net, (DIM,)).sample(noise=noise)
    assert vf.fast_sampler(net, (DIM,), output=1).sample(noise=noise).equal(own)


def test_batch_normalisation_by_the_batch_is_refused() -> None:
    net = made(nn.BatchNorm1d(HIDDEN, track_running_stats=False), nn.ReLU())
    with pytest.raises(ValueError, match=r"got batch normalisation by statistics of the batch in BatchNorm1d at '1'"):
        vf.fast_sampler(net, (DIM,))


def _tripled(where: Callable[[Tensor], Any]) -> Callable[[Any, Tensor], Tensor]:
    return lambda net, x: net.net(x) * (-3 if where(x) else 1)


REFUSED: dict[str, tuple[Callable[[Any, Tensor], Any], str]] = {
    "a branch on zeros": (_tripled(lambda x: x.sum() == 0), "the same branches for all vectors, .* got True and False"),
    "a branch on a number": (_tripled(lambda x: x.mean().item() < 0.2), "all vectors, .* got 0.0 and 1.0"),
    "a branch on a list": (_tripled(lambda x: x.mean().tolist() < 0.2), "all vectors, .* got 0.0 and 1.0"),
    "a branch on the batch": (_tripled(lambda x: len(x) == 1), "in every call and batch size, got outputs that differ"),
    "a sigmoid as logits": (
        lambda net, x: distributions.Bernoulli(logits=net.net(x).sigmoid()),
        "make a Bernoulli of logits, or of probabilities .* got a sigmoid as its logits",
    ),
    "a clamp as probabilities": (
        lambda net, x: distributions.Bernoulli(net.net(x).clamp(0, 1)),
        "make a Bernoulli of logits, or of probabilities .* got probabilities that end in something else",
    ),
    "a clamp": (lambda net, x: net.net(x).clamp(0, 1), "got outputs that are between 0 and 1 whatever its weights are"),
    "dropout that stays on": (lambda net, x: F.dropout(net.net(x), 0.3, True), "got dropout that stays on"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    function, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        vf.fast_sampler(randomized(Net(function)), (DIM,))


def test_statistics_of_a_batch_normalisation_that_change() -> None:
    net, noise = randomized(made(nn.BatchNorm1d(HIDDEN), nn.ReLU())), torch.rand(50, DIM)
    sampler = vf.fast_sampler(net, (DIM,))
    before = sampler.sample(noise=noise)
    net.train()(torch.randn(64, DIM))
    sampler.refresh()
    assert net.training and net[1].training
    after = vf.fast_sampler(net.eval(), (DIM,)).sample(noise=noise)
    assert sampler.sample(noise=noise).equal(after) and not before.equal(after)
