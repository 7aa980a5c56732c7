"""Discrete MADEs of levels: ours and other people's, however these enter, against D passes of the module itself."""

import copy
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cases.rows import backends_of, require
from torch import Tensor, nn

import vlae_fast as vf
from vlae_fast.models.likelihood import make_likelihood

DIM, K, BATCH = 6, 5, 40
MIXED = (3, 7, 1, 2, 9, 4)


def by_passes(logits: Callable[[Tensor], Sequence[Tensor]], noise: Tensor) -> tuple[Tensor, Tensor]:
    """Levels after D passes, and log p in nats; logits: of levels [B, D], those [B, K_d] of each dimension."""
    x = torch.zeros(noise.shape, dtype=torch.long)
    with torch.no_grad():
        for _ in range(noise.shape[1]):
            p = [own.double().softmax(1) for own in logits(x)]
            found = [(q.cumsum(1) <= noise[:, d : d + 1]).sum(1).clamp(max=q.shape[1] - 1) for d, q in enumerate(p)]
            x = torch.stack(found, 1)
        p = [own.double().softmax(1).gather(1, x[:, d : d + 1]) for d, own in enumerate(logits(x))]
    return x, torch.cat(p, 1).log().sum(1).float()


def check(sampler: vf.MADESampler, logits: Callable[[Tensor], Sequence[Tensor]], seed: int = 0) -> None:
    noise = torch.rand(BATCH, sampler.dim, generator=torch.Generator().manual_seed(seed))
    x, log_prob = sampler.sample_with_log_prob(noise=noise)
    want, of_want = by_passes(logits, noise)
    assert x.dtype == torch.long and x.equal(want) and len(x.unique()) > 1
    torch.testing.assert_close(log_prob, of_want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", backends_of("made_sample_levels"))
@pytest.mark.parametrize("pixels", [(0.0, 1.0), (-1.0, 1.0), "index"], ids=str)
def test_ours_is_d_passes(pixels: Any, backend: str) -> None:
    made = vf.MADE(DIM, 24, K * DIM, activation="tanh")
    low, high = (0, K - 1) if pixels == "index" else pixels
    sampler = vf.MADESampler(made, require(backend), pixels=pixels, levels=K)
    assert sampler.backend == backend
    check(sampler, lambda x: made(low + (high - low) / (K - 1) * x.float()).view(-1, K, DIM).unbind(2))


def test_ours_with_other_numbers_of_levels_a_context_and_a_temperature() -> None:
    made, context = vf.MADE(DIM, 24, max(MIXED) * DIM, context_dim=3), torch.randn(BATCH, 3)
    sampler = vf.MADESampler(made, levels=MIXED, pixels="index")
    noise = torch.rand(BATCH, DIM)

    def logits(x: Tensor) -> list[Tensor]:
        out = made(x.float(), context).view(-1, max(MIXED), DIM) / 0.5
        return [out[:, :k, d] for d, k in enumerate(MIXED)]

    x, log_prob = sampler.sample_with_log_prob(noise=noise, context=context, temperature=0.5)
    want, of_want = by_passes(logits, noise)
    assert x.equal(want) and (x.amax(0) < torch.tensor(MIXED)).all()
    torch.testing.assert_close(log_prob, of_want, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        made.masked_layers()[0].weight.neg_()
    assert sampler.sample(noise=noise, context=context, temperature=0.5).equal(want)
    sampler.refresh()
    assert sampler.sample(noise=noise, context=context, temperature=0.5).equal(by_passes(logits, noise)[0])


@pytest.mark.parametrize("backend", backends_of("made_sample_levels"))
@pytest.mark.parametrize("temperature", [1e-39, 1e-100])
def test_cold_levels_are_the_likeliest(temperature: float, backend: str) -> None:
    made, noise = vf.MADE(DIM, 24, K * DIM), torch.rand(BATCH, DIM)
    sampler = vf.MADESampler(made, require(backend), levels=K)
    x, log_prob = sampler.sample_with_log_prob(noise=noise, temperature=temperature)
    assert x.equal(made(x / (K - 1)).view(-1, K, DIM).argmax(1)) and log_prob.eq(0).all()


class Masked(nn.Linear):
    def __init__(self, before: Tensor, after: Tensor) -> None:
        super().__init__(len(before), len(after))
        self.register_buffer("mask", (after[:, None] >= before).float())
        self.weight.data *= 4

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)


class Blocks(nn.Module):
    """A MADE whose inputs are `inputs` numbers for each dimension and whose outputs are blocks of logits."""

    def __init__(
        self, encode: Callable[[Any, Tensor], Tensor], inputs: Sequence[int], levels: Sequence[int], **parts: Any
    ):
        super().__init__()
        torch.manual_seed(2)
        order = torch.randperm(DIM) + 1
        first = order.repeat_interleave(torch.tensor(inputs))
        hidden, second = torch.arange(30) % DIM, torch.arange(30) % DIM
        last = (order - 1).repeat_interleave(torch.tensor(levels))
        self.first, self.second, self.last = Masked(first, hidden), Masked(hidden, second), Masked(second, last)
        self.direct = Masked(first, last)
        self.encode = encode
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.second(F.relu(self.first(self.encode(self, x))))))


class Residual(Blocks):
    """Blocks added to what they read, as ResMADE has them, and inputs that the outputs see directly."""

    def forward(self, x: Tensor) -> Tensor:
        rows = self.encode(self, x)
        h = self.first(rows)
        h = h + self.second(F.relu(h))
        h = h + 0.5 * self.second(F.leaky_relu(h))
        return self.last(h) + self.direct(rows)


def embedded(made: Any, x: Tensor) -> Tensor:
    return torch.cat([table(x[:, d]) for d, table in enumerate(made.tables)], 1)


def one_hot_where_small(made: Any, x: Tensor) -> Tensor:
    """Of each column a row of its table, or a one-hot row where it has few levels; -1 would be a column left out."""
    rows, x = [], x.long()
    for d, k in enumerate(MIXED):
        if k > 4:
            rows.append(made.tables[d](x[:, d]))
        elif x[0][d] < 0:
            raise NotImplementedError
        else:
            row = torch.zeros(x.size()[0], k)
            row.scatter_(1, x[:, d].view(-1, 1), 1)
            rows.append(row)
    return torch.cat(rows, 1)


def in_binary(made: Any, x: Tensor) -> Tensor:
    bits = [(x.long()[:, d : d + 1] >> torch.arange(max(1, (k - 1).bit_length()))) & 1 for d, k in enumerate(MIXED)]
    return torch.cat([b > 0 for b in bits], 1).float()


def tables_of(levels: Sequence[int], width: int) -> nn.ModuleList:
    return nn.ModuleList([nn.Embedding(k, width) for k in levels])


def in_blocks(levels: Sequence[int]) -> Callable[[nn.Module, Tensor], list[Tensor]]:
    return lambda made, x: list(made(x).flatten(1).split(list(levels), 1))


SAME = (K,) * DIM
CODES = make_likelihood("categorical", 1, levels=K)
KINDS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], Callable[[nn.Module, Tensor], Sequence[Tensor]]]] = {
    "numbers": (
        lambda: Blocks(lambda made, x: 2 * x - 1, (1,) * DIM, SAME),
        {"likelihood": CODES},
        lambda made, x: in_blocks(SAME)(made, x.float() / (K - 1)),
    ),
    "numbers of spins": (
        lambda: Blocks(lambda made, x: x, (1,) * DIM, SAME),
        {"levels": K, "pixels": (-1, 1)},
        lambda made, x: in_blocks(SAME)(made, x.float() / 2 - 1),
    ),
    "level after level": (
        lambda: nn.Sequential(Blocks(lambda made, x: x, (1,) * DIM, SAME), Turned()),
        {"levels": K},
        lambda made, x: made(x.float() / (K - 1)).view(-1, K, DIM).unbind(2),
    ),
    "log-probabilities [B, D, K]": (
        lambda: nn.Sequential(Blocks(lambda made, x: x, (1,) * DIM, SAME), nn.Unflatten(1, (DIM, K)), nn.LogSoftmax(2)),
        {"likelihood": CODES},
        lambda made, x: made(x.float() / (K - 1)).unbind(1),
    ),
    "probabilities [B, K, D]": (
        lambda: nn.Sequential(
            Blocks(lambda made, x: x, (1,) * DIM, SAME), Turned(), nn.Unflatten(1, (K, DIM)), nn.Softmax(1)
        ),
        {"likelihood": CODES},
        lambda made, x: made(x.float() / (K - 1)).log().unbind(2),
    ),
    "embeddings": (
        lambda: Blocks(embedded, (4,) * DIM, MIXED, tables=tables_of(MIXED, 4)),
        {"levels": MIXED},
        lambda made, x: in_blocks(MIXED)(made, x),
    ),
    "one embedding of all": (
        lambda: Blocks(lambda made, x: made.codes(x).flatten(1), (3,) * DIM, SAME, codes=nn.Embedding(K, 3)),
        {"levels": K},
        lambda made, x: in_blocks(SAME)(made, x),
    ),
    "embeddings and one-hot rows": (
        lambda: Blocks(one_hot_where_small, [k if k < 5 else 4 for k in MIXED], MIXED, tables=tables_of(MIXED, 4)),
        {"levels": MIXED},
        lambda made, x: in_blocks(MIXED)(made, x),
    ),
    "binary": (
        lambda: Blocks(in_binary, [max(1, (k - 1).bit_length()) for k in MIXED], MIXED),
        {"levels": MIXED, "pixels": "index"},
        lambda made, x: in_blocks(MIXED)(made, x),
    ),
    "levels that are divided in forward": (
        lambda: Blocks(lambda made, x: 2 * (x.float() / (K - 1)) - 1, (1,) * DIM, SAME),
        {"levels": K},
        lambda made, x: in_blocks(SAME)(made, x),
    ),
    "integers that are divided in forward": (
        lambda: Blocks(lambda made, x: x / (K - 1), (1,) * DIM, SAME),
        {"levels": K},
        lambda made, x: in_blocks(SAME)(made, x),
    ),
    "one-hot in forward": (
        lambda: Blocks(lambda made, x: F.one_hot(x, K).float().flatten(1), SAME, SAME),
        {"levels": K},
        lambda made, x: in_blocks(SAME)(made, x),
    ),
    "one-hot inputs": (
        lambda: Blocks(lambda made, x: x, SAME, SAME),
        {"levels": K},
        lambda made, x: in_blocks(SAME)(made, F.one_hot(x, K).float().flatten(1)),
    ),
    "one-hot inputs of any number": (
        lambda: Blocks(lambda made, x: x, MIXED, MIXED),
        {"levels": MIXED, "pixels": "one_hot"},
        lambda made, x: in_blocks(MIXED)(
            made, torch.cat([F.one_hot(x[:, d], k) for d, k in enumerate(MIXED)], 1).float()
        ),
    ),
    "one-hot inputs [B, D, K]": (
        lambda: Blocks(lambda made, x: x.reshape(x.shape[0], -1), SAME, SAME),
        {"levels": K, "pixels": "one_hot"},
        lambda made, x: in_blocks(SAME)(made, F.one_hot(x, K).float()),
    ),
    "residual blocks": (
        lambda: Residual(embedded, (4,) * DIM, MIXED, tables=tables_of(MIXED, 4)),
        {"levels": MIXED},
        lambda made, x: in_blocks(MIXED)(made, x),
    ),
    "more inputs than levels": (
        lambda: Residual(embedded, (12,) * DIM, MIXED, tables=tables_of(MIXED, 12)),
        {"levels": MIXED},
        lambda made, x: in_blocks(MIXED)(made, x),
    ),
    "logits by another method": (
        lambda: Blocks(embedded, (4,) * DIM, SAME, tables=tables_of(SAME, 4), read=nn.Linear(K, K)),
        {"levels": K, "call": lambda made, x, _: made.read(made(x).view(-1, DIM, K))},
        lambda made, x: made.read(made(x).view(-1, DIM, K)).unbind(1),
    ),
}


class Turned(nn.Module):
    """Blocks of levels as level after level."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(-1, DIM, K).transpose(1, 2).flatten(1)


@pytest.mark.parametrize("name", KINDS)
def test_other_peoples_are_d_passes(name: str) -> None:
    make, options, logits = KINDS[name]
    made = make().eval()
    sampler = vf.fast_sampler(made, (DIM,), **options)
    check(sampler, lambda x: logits(made, x))
    assert isinstance(sampler, vf.MADESampler) and sampler.levels == (MIXED if options.get("levels") == MIXED else SAME)


def test_refreshed_is_a_new_one() -> None:
    make, options, _ = KINDS["residual blocks"]
    made, noise = make(), torch.rand(BATCH, DIM)
    sampler = vf.fast_sampler(made, (DIM,), **options)
    before = sampler.sample(noise=noise)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    assert sampler.sample(noise=noise).equal(before)
    sampler.refresh()
    after = sampler.sample_with_log_prob(noise=noise)
    new = vf.fast_sampler(copy.deepcopy(made), (DIM,), **options).sample_with_log_prob(noise=noise)
    assert after[0].equal(new[0]) and after[1].equal(new[1]) and not after[0].equal(before)


class Spins(nn.Module):
    """A variational autoregressive network: residual blocks with PReLU, the first probability fixed at one half."""

    def __init__(self, side: int = 3, width: int = 2) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.side, one = side, torch.arange(side * side) + 1
        wide = one.repeat(width)
        self.first, self.inner, self.last = Masked(one, wide - 1), Masked(wide, wide), Masked(wide, one)
        self.slopes = nn.ModuleList([nn.PReLU(len(wide), init=0.5) for _ in range(2)])
        self.register_buffer("kept", (one > 1).float().view(side, side))

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x.view(x.shape[0], -1))
        h = h + self.inner(self.slopes[0](h))
        p = torch.sigmoid(self.last(self.slopes[1](h))).view(-1, 1, self.side, self.side)
        return p * self.kept + 0.5 * (1 - self.kept)


@pytest.mark.parametrize("backend", backends_of("made_sample"))
def test_spins_of_a_grid(backend: str) -> None:
    made, noise = Spins(), torch.rand(BATCH, 9)
    bits = vf.fast_sampler(made, (9,), pixels=(-1, 1), backend=require(backend)).sample(noise=noise)
    x = torch.full((BATCH, 1, 3, 3), -1.0)
    with torch.no_grad():
        for i in range(9):
            p = made(x).flatten(1)[:, i]
            x.view(BATCH, 9)[:, i] = torch.where(noise[:, i] < p, 1.0, -1.0)
    assert (2 * bits - 1).equal(x.flatten(1))


LEVELS = make_likelihood("logistic_mixture", 1)


def _zeroed(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


@pytest.mark.parametrize(
    ("make", "options", "rule"),
    [
        (
            KINDS["numbers"][0],
            {"levels": K, "likelihood": CODES},
            "levels must not be given beside a categorical",
        ),
        (KINDS["numbers"][0], {"likelihood": LEVELS}, "likelihood must be bernoulli or categorical for vectors (6,)"),
        (KINDS["numbers"][0], {"levels": 4}, "must give 24 numbers, a logit for each level of each dimension, got 30"),
        (KINDS["numbers"][0], {"levels": (5, 5)}, "levels must be a positive integer, or one for each of 6"),
        (KINDS["numbers"][0], {"levels": K, "layout": "BKCHW"}, "layout must be BDK or BKD, of as many levels"),
        (
            KINDS["numbers"][0],
            {"levels": K, "layout": "BKD"},
            "a logit by those before it, got: it is not",
        ),
        (KINDS["numbers"][0], {"levels": K, "pixels": (1, 1)}, "pixels must be two finite numbers that differ"),
        (
            lambda: Blocks(lambda made, x: x.float() - 2, (1,) * DIM, SAME),
            {"levels": K},
            "pixels must be given where forward turns its input into real numbers and does not divide it",
        ),
        (
            lambda: nn.Sequential(KINDS["numbers"][0](), nn.Unflatten(1, (DIM, K)), nn.Softmax(1)),
            {"levels": K},
            "decoder must end in a softmax over the levels of each dimension, got one over others",
        ),
        (
            lambda: nn.Sequential(KINDS["numbers"][0](), nn.LogSoftmax(1)),
            {"levels": K},
            "decoder must end in a log_softmax over the levels of each dimension, got one over others",
        ),
        (
            lambda: nn.Sequential(
                KINDS["numbers"][0](), nn.Linear(DIM * K, DIM * K).requires_grad_(False).apply(_zeroed)
            ),
            {"levels": K},
            "layout must be BDK or BKD where the outputs can be read in both ways",
        ),
        (
            lambda: nn.Sequential(KINDS["numbers"][0](), nn.Sigmoid()),
            {"levels": K},
            "decoder of levels may end in softmax or log_softmax alone, got sigmoid",
        ),
        (
            lambda: Blocks(lambda made, x: x * x.roll(1, 1), (1,) * DIM, SAME),
            {"levels": K},
            "in turn, where x is a vector, got numbers of several dimensions",
        ),
        (
            lambda: Blocks(lambda made, x: torch.cat([x, x * torch.rand(len(x), 1)], 1), (2,) * DIM, SAME),
            {"levels": K},
            "got numbers of several dimensions",
        ),
    ],
)
def test_refusals(make: Callable[[], nn.Module], options: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=re.escape(rule)):
        vf.fast_sampler(make(), (DIM,), **options)


class Turning(nn.Module):
    """A MADE of levels, one ruled out in the first dimension, or of bits, the first fixed; it may turn at each call."""

    def __init__(self, turns: bool, levels: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        one = torch.arange(DIM) + 1
        self.first, self.last = Masked(one, one), Masked(one, one.repeat(levels) - 1)
        self.turns, self.calls = turns, 0
        fixed = torch.zeros(levels, DIM)
        fixed[-1, 0] = -1e9
        self.register_buffer("fixed", fixed.flatten())

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.last(torch.relu(self.first(x))) * (self.calls if self.turns else 1) + self.fixed


@pytest.mark.parametrize("levels", [1, K])
def test_a_wrong_forward_beside_a_fixed_level_is_refused(levels: int) -> None:
    options = {} if levels == 1 else {"levels": K, "pixels": (0, 1), "layout": "BKD"}
    vf.fast_sampler(Turning(False, levels), (DIM,), **options)
    with pytest.raises(
        ValueError, match="a function of x alone, the same in every call and batch size, got outputs that"
    ):
        vf.fast_sampler(Turning(True, levels), (DIM,), **options)


def test_errors_of_ours() -> None:
    with pytest.raises(ValueError, match=re.escape("made must have output_dim = 5 input_dim = 30, a logit for each")):
        vf.MADESampler(vf.MADE(DIM, 8, DIM), levels=K)
    with pytest.raises(ValueError, match="pixels must be two finite numbers that differ, for the first level and"):
        vf.MADESampler(vf.MADE(DIM, 8, K * DIM), levels=K, pixels="levels")
    with pytest.raises(ValueError, match="levels must be those of a likelihood for images, got levels=3"):
        vf.fast_sampler(vf.MaskedConv2d("A", 1, 1, 3), (1, 4, 4), levels=3)
