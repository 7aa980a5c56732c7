"""`log_prob`: sums to one over all images, is the model's own likelihood, and comes with the images drawn."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from cases.rows import backends_of, require
from torch import Tensor

import vlae_fast as vf
from vlae_fast.models import make_likelihood
from vlae_fast.models.decoders import MLPDecoder
from vlae_fast.reference import pixelcnn_draw, pixelcnn_score
from vlae_fast.sampling import FactorizedSampler

SIZE = (2, 2)
KINDS: dict[str, dict[str, Any]] = {
    "bernoulli": {"channels": 2},
    "categorical": {"channels": 1, "levels": 4},
    "logistic_mixture": {"channels": 2, "levels": 3, "components": 2},
}


def decoder_of(kind: str, size: tuple[int, int] = SIZE, dtype: torch.dtype = torch.float64, **options: Any) -> Any:
    torch.manual_seed(0)
    likelihood = make_likelihood(kind, **{"channels": 1} | KINDS.get(kind, {}) | options)
    decoder = vf.PixelCNNDecoder(
        likelihood.channels, 2, 4, 1, image_size=size, initial_kernel=3, z_channels=0, likelihood=likelihood
    )
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(2)
    return decoder.to(dtype)


def all_images(levels: int, channels: int, size: tuple[int, int]) -> Tensor:
    values = [k / (levels - 1) for k in range(levels)]
    dims = channels * size[0] * size[1]
    return torch.tensor(list(itertools.product(values, repeat=dims)), dtype=torch.float64).view(-1, channels, *size)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_of_all_images_sum_to_one(kind: str, temperature: float) -> None:
    size = (3, 1) if kind == "logistic_mixture" else (2, 2)
    decoder = decoder_of(kind, size)
    sampler, emit = vf.PixelCNNSampler(decoder, "reference"), decoder.likelihood.emit
    images = all_images(emit.levels, decoder.input_dim, size)
    z = torch.ones(1, 2, dtype=torch.float64).expand(len(images), 2)
    log_p = sampler.log_prob(images, z, temperature)
    assert abs(log_p.exp().sum().item() - 1) < 1e-12
    if temperature == 1:
        own = decoder.likelihood.log_prob(decoder(images, z), images)
        torch.testing.assert_close(log_p, own, rtol=1e-12, atol=1e-12)


def test_a_density_integrates_to_one() -> None:
    decoder = decoder_of("gaussian", (1, 1))
    sampler = vf.PixelCNNSampler(decoder, "reference")
    x = torch.linspace(-60, 60, 24_001, dtype=torch.float64).view(-1, 1, 1, 1)
    z = torch.ones(1, 2, dtype=torch.float64).expand(len(x), 2)
    for temperature in (1.0, 0.5):
        log_p = sampler.log_prob(x, z, temperature)
        assert abs(torch.trapezoid(log_p.exp(), x.flatten()).item() - 1) < 1e-9
    torch.testing.assert_close(sampler.log_prob(x, z), decoder.likelihood.log_prob(decoder(x, z), x))


@pytest.mark.parametrize("kind", [*KINDS, "gaussian"])
def test_frequencies_of_draws_are_the_probabilities(kind: str) -> None:
    """At a temperature: what is scored is what is drawn; edge levels of a mixture included."""
    emit = make_likelihood(kind, **{"channels": 1} | KINDS.get(kind, {})).emit
    channels, temperature, n = KINDS.get(kind, {"channels": 1})["channels"], 0.7, 200_000
    generator = torch.Generator().manual_seed(0)
    params = torch.randn(1, emit.params(channels), 1, 1, generator=generator, dtype=torch.float64)
    make = torch.randn if emit.noise_is_normal else torch.rand
    noise = make((n, emit.noises(channels), 1, 1), generator=generator, dtype=torch.float64)
    x = pixelcnn_draw.draw(params.expand(n, -1, 1, 1), noise, emit, temperature)
    if emit.levels:
        for image in all_images(emit.levels, channels, (1, 1)):
            p = pixelcnn_score.log_prob(params, image[None], emit, temperature).exp().item()
            share = (x == image).flatten(1).all(1).double().mean().item()
            assert abs(share - p) < 5 * math.sqrt(p * (1 - p) / n) + 1e-9
    else:
        entropy = -pixelcnn_score.log_prob(params.expand(n, -1, 1, 1), x, emit, temperature).mean().item()
        exact = 0.5 * math.log(2 * math.pi * math.e) + params[0, 1].item() + math.log(temperature)
        assert abs(entropy - exact) < 0.01


@pytest.mark.parametrize("row", backends_of("pixelcnn_sample"))
@pytest.mark.parametrize("kind", [*KINDS, "gaussian"])
def test_images_come_with_their_log_prob_on_every_row(row: str, kind: str, request: pytest.FixtureRequest) -> None:
    if row == "cuda":
        request.getfixturevalue("cuda")
    else:
        require(row)
    decoder = decoder_of(kind, dtype=torch.float32)
    sampler, reference = vf.PixelCNNSampler(decoder, row), vf.PixelCNNSampler(decoder, "reference")
    z, generator = torch.ones(2, 2), torch.Generator().manual_seed(0)
    images, log_prob = sampler.sample(z, generator=generator, temperature=0.8, return_log_prob=True)
    assert log_prob.shape == (2,) and log_prob.dtype == torch.float32
    assert log_prob.equal(sampler.log_prob(images, z, 0.8))  # the same logits, bit for bit
    torch.testing.assert_close(log_prob, reference.log_prob(images, z, 0.8), rtol=1e-5, atol=1e-4)


def test_known_pixels_do_not_count() -> None:
    decoder = decoder_of("logistic_mixture")
    sampler, z = vf.PixelCNNSampler(decoder, "reference"), torch.ones(3, 2, dtype=torch.float64)
    mask = torch.zeros(2, *SIZE, dtype=torch.bool)
    mask[:, 0] = True
    values = torch.full((3, 2, *SIZE), 0.5, dtype=torch.float64)
    images, log_prob = sampler.sample(z, known=(mask, values), return_log_prob=True)
    params = decoder(images, z)
    by_pixel = pixelcnn_score.log_prob(params, images, decoder.likelihood.emit)
    torch.testing.assert_close(log_prob, by_pixel[:, 1].sum(1))
    everything, none = sampler.sample(z, known=(torch.ones_like(mask), values), return_log_prob=True)
    assert everything.equal(values) and none.abs().max() < 1e-12


def test_arguments_that_are_refused() -> None:
    sampler = vf.PixelCNNSampler(decoder_of("categorical", dtype=torch.float32), "reference")
    x, z = torch.zeros(2, 1, *SIZE), torch.zeros(2, 2)
    for call, message in (
        (lambda: sampler.log_prob(x + 0.5, z), r"log_prob: x must be k / 3 for k = 0..3, got 0.5"),
        (lambda: sampler.log_prob(x[0], z), r"log_prob: x must be torch.float32 \[B, 1, 2, 2\], got"),
        (lambda: sampler.log_prob(x.double(), z), r"log_prob: x must be torch.float32 \[B, 1, 2, 2\], got"),
        (lambda: sampler.log_prob(x, z[:1]), r"z must have a row for each of 2 images, got 1"),
        (lambda: sampler.log_prob(x, z, 0), r"temperature must be in \[1e-100, 1e\+100\], got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_factorized_samplers_score_too() -> None:
    torch.manual_seed(0)
    for kind in ("bernoulli", "continuous_bernoulli"):
        likelihood = make_likelihood(kind, 1)
        decoder = MLPDecoder(1, 2, 8, 1, image_size=(3, 3), likelihood=likelihood)
        sampler, z = FactorizedSampler(decoder), torch.randn(4, 2)
        images, log_prob = sampler.sample(z, return_log_prob=True)
        torch.testing.assert_close(log_prob, likelihood.log_prob(decoder(images, z), images))
        assert log_prob.equal(sampler.log_prob(images, z))
