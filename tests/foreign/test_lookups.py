"""Decoders that look up a pixel's level: priors of a VQ-VAE, and those that read one-hot inputs."""

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cases.foreign import ProductMaskedConv, randomized
from torch import Tensor, nn

import vlae_fast as vf
from vlae_fast.models.likelihood import Likelihood, make_likelihood
from vlae_fast.plan import Emit

SHAPE = (1, 5, 6)
Lookup = Callable[[nn.Embedding, Tensor, int], Tensor]  # of codes, x and K levels


class Prior(nn.Module):
    """A masked convolution of what is looked up."""

    def __init__(self, lookup: Lookup, levels: int, channels: int = 8) -> None:
        super().__init__()
        self.lookup, self.levels, self.codes = lookup, levels, nn.Embedding(levels, 8)
        self.first = ProductMaskedConv("A", channels, 8, 3, padding=1)
        self.out = nn.Conv2d(8, levels if levels > 2 else 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.first(self.lookup(self.codes, x, self.levels)).relu())


def scattered(codes: nn.Embedding, x: Tensor, levels: int) -> Tensor:
    planes = torch.zeros(len(x), levels, *x.shape[2:])
    planes.scatter_(1, ((levels - 1) * x).round().long(), 1.0)
    return planes


SPELLINGS: dict[str, Lookup] = {
    "x[:, 0], round, permute": lambda codes, x, k: codes(((k - 1) * x[:, 0]).round().long()).permute(0, 3, 1, 2),
    "x.squeeze(1), torch.round, to, movedim": lambda codes, x, k: codes(
        torch.round((k - 1) * x.squeeze(1)).to(torch.int64)
    ).movedim(3, 1),
    "x[:, 0, :, :], + 0.5, long": lambda codes, x, k: codes((x[:, 0, :, :] * (k - 1) + 0.5).long()).movedim(-1, 1),
    "floor, int, transpose": lambda codes, x, k: (
        codes((x[:, 0] * (k - 1) + 0.5).floor().int()).transpose(1, 3).transpose(2, 3)
    ),
    "cut without rounding": lambda codes, x, k: codes(((k - 1) * x[:, 0]).long()).permute(0, 3, 1, 2).contiguous(),
    "five dimensions": lambda codes, x, k: codes(((k - 1) * x).round().long()).permute(0, 1, 4, 2, 3).flatten(1, 2),
    "flat": lambda codes, x, k: (
        codes(((k - 1) * x).round().clamp(0, k - 1).long().flatten(1)).transpose(1, 2).reshape(len(x), 8, *x.shape[2:])
    ),
    "F.embedding": lambda codes, x, k: F.embedding(((k - 1) * x[:, 0]).round().long(), codes.weight).movedim(3, 1),
    "rows of a weight": lambda codes, x, k: codes.weight[((k - 1) * x[:, 0]).round().long()].permute(0, 3, 1, 2),
    "product with a one-hot": lambda codes, x, k: (
        F.one_hot(((k - 1) * x[:, 0]).round().long(), k).float() @ codes.weight
    ).permute(0, 3, 1, 2),
    "F.one_hot": lambda codes, x, k: F.one_hot(((k - 1) * x[:, 0]).round().long(), k).permute(0, 3, 1, 2).float(),
    "F.one_hot, num_classes": lambda codes, x, k: (
        F.one_hot((x * (k - 1) + 0.5).long().squeeze(1), num_classes=k).movedim(-1, 1).to(x.dtype)
    ),
    "scatter_": scattered,
    "scatter": lambda codes, x, k: (
        torch.zeros_like(((k - 1) * x).long()).repeat(1, k, 1, 1).scatter(1, ((k - 1) * x).round().long(), 1).float()
    ),
    "comparison": lambda codes, x, k: (((k - 1) * x).round() == torch.arange(k).view(1, k, 1, 1)).float(),
    "rows that repeat": lambda codes, x, k: codes((x[:, 0] > 0.5).long()).movedim(3, 1),
    "beside the pixel": lambda codes, x, k: torch.cat(
        [codes(((k - 1) * x[:, 0]).round().long()).permute(0, 3, 1, 2), 2 * x - 1], 1
    ),
}


def levels_of(levels: int) -> Likelihood | None:
    return None if levels == 2 else make_likelihood("categorical", 1, levels=levels)


def channels_of(name: str, levels: int) -> int:
    planes = 9 if name == "beside the pixel" else 8
    return levels if name in ("F.one_hot", "F.one_hot, num_classes", "scatter_", "scatter", "comparison") else planes


@pytest.mark.parametrize("levels", [2, pytest.param(16, marks=pytest.mark.slow), 64])
@pytest.mark.parametrize("name", SPELLINGS)
def test_images_are_those_of_the_naive_sampler(name: str, levels: int) -> None:
    decoder = randomized(Prior(SPELLINGS[name], levels, channels_of(name, levels)))
    sampler = vf.fast_sampler(decoder, SHAPE, likelihood=levels_of(levels))
    noise = torch.rand(6, *SHAPE)
    naive = vf.naive_sample(sampler.decoder, None, noise)
    assert naive.std() > 0.1
    assert sampler.sample(None, noise).equal(naive)


@pytest.mark.parametrize("levels", [2, 3, 256, 1024])
def test_rows_are_those_of_the_table_to_the_last_bit(levels: int) -> None:
    """Rows that differ by a factor of 1e9: of one in the wrong place a trace would be left."""
    prior = Prior(SPELLINGS["F.embedding"], levels)
    with torch.no_grad():
        prior.codes.weight.copy_(torch.randn(levels, 8) * 10.0 ** torch.randint(-4, 5, (levels, 1)))
    program = vf.fast_sampler(prior, (1, 32, 32), likelihood=levels_of(levels)).program
    x = (torch.arange(1024.0) % levels / (levels - 1)).view(1, 1, 32, 32)
    stages = 3 if levels > 8 else 2  # where there are fewer levels than channels, the convolution reads levels
    count = sum(len(stage.sources) + 1 for stage in program.stages[:stages])
    got = vf.reference.run_program(program.stages[:stages], program.weights[:count], None, x)
    expected = (
        prior.codes.weight[torch.arange(1024) % levels]
        if stages == 3
        else torch.eye(levels)[torch.arange(1024) % levels]
    )
    assert got.equal(expected.T.reshape(1, -1, 32, 32))


def test_levels_that_share_a_row_share_a_unit() -> None:
    stages = vf.fast_sampler(Prior(SPELLINGS["rows that repeat"], 256), SHAPE, likelihood=levels_of(256)).program.stages
    assert [stage.out_channels for stage in stages] == [4, 2, 8, 256]  # for one-hot inputs: [512, 256, 8, 256]


class Two(Prior):
    """One code in two convolutions, a pointwise convolution in between, and z through a network."""

    def __init__(self, levels: int) -> None:
        super().__init__(SPELLINGS["x[:, 0], round, permute"], levels)
        self.second, self.point = ProductMaskedConv("A", 8, 8, 5, padding=2), nn.Conv2d(8, 8, 1)
        self.code = nn.Sequential(nn.Linear(3, 4), nn.Softplus(), nn.Linear(4, 8))

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        rows = self.point(self.lookup(self.codes, x, self.levels))
        return self.out((self.first(rows) + self.second(rows) + self.code(z)[:, :, None, None]).relu())


def test_a_code_that_is_read_twice_beside_z() -> None:
    sampler = vf.fast_sampler(randomized(Two(16)), SHAPE, latent_dim=3, likelihood=levels_of(16))
    z, noise = torch.randn(6, 3), torch.rand(6, *SHAPE)
    assert sampler.sample(z, noise).equal(vf.naive_sample(sampler.decoder, z, noise))


def test_numbers_that_nothing_depends_on_are_left_out() -> None:
    def lookup(codes: nn.Embedding, x: Tensor, levels: int) -> Tensor:
        x.exp().long()
        return SPELLINGS["F.embedding"](codes, x, levels)

    sampler = vf.fast_sampler(Prior(lookup, 16), SHAPE, likelihood=levels_of(16))
    assert [stage.out_channels for stage in sampler.program.stages] == [32, 16, 8, 8, 16]


def index_of(x: Tensor, k: int) -> Tensor:
    return ((k - 1) * x[:, 0]).round().long()


ALONE = "lookups whose rows [B, P, H, W] follow from the level of their own pixel alone, got {}"

REFUSED: dict[str, tuple[Lookup, str]] = {
    "another pixel": (
        lambda codes, x, k: codes(index_of(F.pad(x, (1, -1)), k)).movedim(3, 1),
        ALONE.format("embedding in Embedding at 'codes'"),
    ),
    "two pixels": (
        lambda codes, x, k: (x == F.pad(x, (1, -1))).float().expand(-1, 8, -1, -1),
        ALONE.format("eq"),
    ),
    "its place": (
        lambda codes, x, k: codes((index_of(x, k) + torch.arange(6)) % k).movedim(3, 1),
        ALONE.format("embedding in Embedding at 'codes'"),
    ),
    "a token at the start": (
        lambda codes, x, k: codes(F.pad(index_of(x, k).flatten(1), (1, -1))).unflatten(1, (5, 6)).movedim(3, 1),
        ALONE.format("embedding in Embedding at 'codes'"),
    ),
    "flipped": (
        lambda codes, x, k: codes(index_of(x, k).flip(2)).movedim(3, 1),
        ALONE.format("embedding in Embedding at 'codes'"),
    ),
    "too few rows": (
        lambda codes, x, k: codes(index_of(x, 2 * k)).movedim(3, 1),
        "lookups that have a row for each of 16 levels, got embedding (row 31 of 16) in Embedding at 'codes'",
    ),
    "too few classes": (
        lambda codes, x, k: F.one_hot(index_of(x, 2 * k), k).movedim(3, 1).float()[:, :8],
        "lookups that have a row for each of 16 levels, got one_hot (row 31 of 16)",
    ),
    "too few rows of a weight": (
        lambda codes, x, k: codes.weight[index_of(x, 2 * k)].movedim(3, 1),
        "lookups that have a row for each of 16 levels, got index (row 31 of 16)",
    ),
    "classes of the data": (
        lambda codes, x, k: F.one_hot(index_of(x, k)).movedim(3, 1).float(),
        "traceable by torch.fx, got ValueError: F.one_hot without num_classes",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_function_of_the_level_is_named(name: str) -> None:
    lookup, message = REFUSED[name]
    with pytest.raises(ValueError, match="fast_sampler: decoder must be .*" + re.escape(message)):
        vf.fast_sampler(Prior(lookup, 16), SHAPE, likelihood=levels_of(16))


@pytest.mark.parametrize(
    ("channels", "likelihood", "message"),
    [
        (
            3,
            make_likelihood("categorical", 3, levels=4),
            "lookups by the level of a pixel of one channel, got embedding with 3 channels in Embedding at 'codes'",
        ),
        (
            1,
            SimpleNamespace(emit=Emit("affine", 0)),
            "lookups by the level of a pixel, got embedding with a likelihood of continuous pixels in Embedding",
        ),
        (
            1,
            make_likelihood("categorical", 1, levels=2048),
            "lookups by one of at most 1,024 levels in torch.float32, got embedding with 2,048 in Embedding",
        ),
    ],
)
def test_images_without_a_level_to_look_up(channels: int, likelihood: Any, message: str) -> None:
    prior = Prior(lambda codes, x, k: codes(index_of(x, k)).movedim(3, 1), 16)
    layout = "BKCHW" if channels > 1 else None
    with pytest.raises(ValueError, match=re.escape(f"fast_sampler: decoder must be built of {message}")):
        vf.fast_sampler(prior, (channels, 5, 6), likelihood=likelihood, layout=layout)
