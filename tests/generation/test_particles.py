"""particles.py, proposals.py: weighted completions of any mask against the exact conditional, by enumeration."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from cases.deadline import slow_where
from torch import Tensor

import vlae_fast as vf
from vlae_fast.generation import Completions, complete, weighted_samples
from vlae_fast.generation.particles import Sampler
from vlae_fast.models import make_likelihood

IMAGES = torch.tensor(list(itertools.product((0.0, 1.0), repeat=9))).view(512, 1, 3, 3)
VALUES = torch.tensor([1.0, 0, 1, 0, 1, 1, 0, 1, 0]).view(1, 1, 3, 3)
MASKS = {
    "bottom": [0, 0, 0, 0, 0, 0, 1, 1, 1],
    "right": [0, 0, 1, 0, 0, 1, 0, 0, 1],
    "checkerboard": [1, 0, 1, 0, 1, 0, 1, 0, 1],
    "centre": [0, 0, 0, 0, 1, 0, 0, 0, 0],
    "upper": [1, 1, 1, 0, 0, 0, 0, 0, 0],
}
REPEATS, PARTICLES = 16, 400


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mask_of(name: str) -> Tensor:
    return torch.tensor(MASKS[name], dtype=torch.bool).view(3, 3)


@torch.no_grad()
def decoder_with_strong_dependencies() -> vf.PixelCNNDecoder:
    torch.manual_seed(1)
    decoder = vf.PixelCNNDecoder(1, 0, 8, 2, image_size=(3, 3), initial_kernel=3)
    for parameter in decoder.parameters():
        parameter.mul_(6)
    return decoder


@torch.no_grad()
def model_with_z(**options: object) -> vf.VLAE:
    torch.manual_seed(0)
    found = vf.VLAE(1, 1, 8, 1, image_size=(3, 3), use_flow=False, initial_kernel=3, **options)  # type: ignore[arg-type]
    for parameter in found.decoder.parameters():
        parameter.mul_(4)
    return found


@torch.no_grad()
def log_p_with_z(model: vf.VLAE, label: int | None = None) -> Tensor:
    """``log p(x)`` of the 512 images, z of one dimension integrated by the trapezoidal rule."""
    z = torch.linspace(-6, 6, 97).repeat_interleave(512)[:, None]
    labels = None if label is None else torch.full((len(z),), label)
    images = IMAGES.repeat(97, 1, 1, 1)
    log_px = model.likelihood.log_prob(model.decoder(images, model.condition(z, labels)), images).double()
    return (log_px + model.log_prior(z).double()).unflatten(0, (97, 512)).logsumexp(0) + math.log(12 / 96)


def conditional(log_p: Tensor, images: Tensor, mask: Tensor, values: Tensor) -> tuple[float, Tensor]:
    """log p(known) and E[x | known], by all images."""
    fit = ((images == values) | ~mask).flatten(1).all(1)
    log_known = log_p[fit].logsumexp(0)
    return log_known.item(), torch.einsum("n,nchw->chw", (log_p[fit] - log_known).exp(), images[fit].double())


def assert_agrees(found: Completions, log_known: float, mean: Tensor) -> None:
    """The mean of many independent runs, within 4.5 of its standard errors, which leave the bias of 1 / K no room."""
    for runs, exact in ((found.mean().double(), mean), (found.log_known.exp(), math.exp(log_known))):
        error = runs.std(0) / math.sqrt(len(runs))
        off = (runs.mean(0) - exact).abs()
        assert (off <= 4.5 * error + 1e-6).all(), (off, error)
        assert (error < 0.02).all()  # they can tell
    torch.testing.assert_close(found.log_weights.logsumexp(1), torch.zeros(len(found.images)).double())


def runs_without_z(sampler: Sampler, mask: Tensor, threshold: float, particles: int, repeats: int) -> Completions:
    generator = seeded(3)
    runs = [
        weighted_samples(sampler, (mask, VALUES), particles, threshold=threshold, generator=generator)
        for _ in range(repeats)
    ]
    return Completions(*(torch.cat(part) for part in zip(*runs, strict=True)))


@pytest.mark.parametrize("threshold", [0, 0.9])
@pytest.mark.parametrize("name", MASKS)
def test_without_z_the_exact_conditional(name: str, threshold: float) -> None:
    decoder, mask = decoder_with_strong_dependencies(), mask_of(name)
    with torch.no_grad():
        log_p = decoder.likelihood.log_prob(decoder(IMAGES), IMAGES).double()
    assert abs(log_p.logsumexp(0).item()) < 1e-5
    log_known, mean = conditional(log_p, IMAGES, mask, VALUES)
    sampler = vf.PixelCNNSampler(decoder)
    assert_agrees(runs_without_z(sampler, mask, threshold, PARTICLES, REPEATS), log_known, mean)
    clamped = sampler.propose(None, torch.rand(4000, 1, 3, 3, generator=seeded()), known=(mask, VALUES)).images
    off = (clamped.mean(0) - mean).abs().max().item()
    assert off < 0.04 if name == "upper" else off > 0.06  # which is why there is more to it than to clamp


@slow_where(lambda name, decoder: decoder == "gated" and name in ("right", "checkerboard"))
@pytest.mark.parametrize("decoder", ["gated", "mlp"])
@pytest.mark.parametrize("name", MASKS)
def test_with_z_the_exact_conditional(name: str, decoder: str) -> None:
    model, mask = model_with_z(decoder=decoder) if decoder == "gated" else model_with_mlp(), mask_of(name)
    log_p = log_p_with_z(model)
    assert abs(log_p.logsumexp(0).item()) < 1e-4
    found = complete(
        model, VALUES.expand(REPEATS, -1, -1, -1), mask, method="importance", particles=PARTICLES, threshold=0.9,
        generator=seeded(4),
    )  # fmt: skip
    assert found.images.shape == (REPEATS, PARTICLES, 1, 3, 3)
    assert (found.images == VALUES)[..., mask].all()
    assert_agrees(found, *conditional(log_p, IMAGES, mask, VALUES))


@torch.no_grad()
def model_with_mlp() -> vf.VLAE:
    torch.manual_seed(0)
    model = vf.VLAE(1, 1, 8, 1, image_size=(3, 3), use_flow=False, decoder="mlp", encoder="mlp")
    for parameter in model.decoder.parameters():
        parameter.mul_(3)
    return model


def test_the_estimate_of_p_known_is_unbiased_with_four_particles() -> None:
    decoder, mask = decoder_with_strong_dependencies(), mask_of("right")
    with torch.no_grad():
        log_p = decoder.likelihood.log_prob(decoder(IMAGES), IMAGES).double()
    found = runs_without_z(vf.PixelCNNSampler(decoder), mask, 1, 4, 300).log_known.exp()
    exact = math.exp(conditional(log_p, IMAGES, mask, VALUES)[0])
    assert abs(found.mean() - exact) < 4 * found.std() / math.sqrt(len(found))
    assert found.std() < exact


@pytest.mark.parametrize("kind", ["bernoulli", "categorical", "logistic_mixture"])
def test_channels_of_one_pixel(kind: str) -> None:
    """Two RGB pixels of two levels: green alone is known of the first, red and blue of the second."""
    torch.manual_seed(0)
    likelihood = make_likelihood(kind, 3, levels=2, components=3)
    decoder = vf.PixelCNNDecoder(3, 0, 8, 1, image_size=(1, 2), initial_kernel=3, likelihood=likelihood)
    images = torch.tensor(list(itertools.product((0.0, 1.0), repeat=6))).view(64, 3, 1, 2)
    mask = torch.tensor([[False, True], [True, False], [False, True]]).view(3, 1, 2)
    values = torch.tensor([[0.0, 1], [1, 0], [0, 1]]).view(1, 3, 1, 2)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(5)
        log_p = likelihood.log_prob(decoder(images), images).double()
    assert abs(log_p.logsumexp(0).item()) < 1e-4
    sampler, generator = vf.PixelCNNSampler(decoder), seeded(5)
    runs = [weighted_samples(sampler, (mask, values), PARTICLES, generator=generator) for _ in range(REPEATS)]
    found = Completions(*(torch.cat(part) for part in zip(*runs, strict=True)))
    assert_agrees(found, *conditional(log_p, images, mask, values))


def test_what_is_known_of_each_image() -> None:
    """A mask for each image; the same generator, the same particles; draws are particles by their weights."""
    model = model_with_z()
    masks = torch.stack([mask_of("bottom"), mask_of("right")])[:, None]
    x = IMAGES[[77, 401]]
    found = complete(model, x, masks, method="importance", particles=8, generator=seeded())
    again = complete(model, x, masks, method="importance", particles=8, generator=seeded())
    assert all(a.equal(b) for a, b in zip(found, again, strict=True))
    for i in range(2):
        assert (found.images[i] == x[i])[:, masks[i]].all()
    drawn = found.draw(5, seeded())
    assert drawn.shape == (2, 5, 1, 3, 3)
    assert all((found.images[i] == one).flatten(1).all(1).any() for i in range(2) for one in drawn[i])
    assert ((found.effective() >= 1) & (found.effective() <= 8 + 1e-6)).all()


def test_draws_come_by_weight() -> None:
    images = torch.arange(4.0).view(1, 4, 1, 1, 1)
    weights = torch.tensor([[0.5, 0.25, 0.25, 0.0]]).double()
    found = Completions(images, weights.log(), torch.zeros(1), torch.arange(4)[None])
    assert found.draw(8, seeded()).flatten().tolist() == [0, 0, 0, 0, 1, 1, 2, 2]
    assert found.mean().item() == 0.75 and found.effective().item() == pytest.approx(1 / 0.375)
    of_two = found._replace(origins=torch.tensor([[0, 1, 0, 1]]))
    assert of_two.effective().item() == pytest.approx(1 / (0.75**2 + 0.25**2))


def test_class_conditional() -> None:
    """A model of three classes: log p(known | class) is that of the class that is told."""
    model = model_with_z(n_classes=3)
    with torch.no_grad():
        model.decoder.decoder_layers[0].cond.weight.mul_(3)
    mask, found = mask_of("bottom"), []
    for label in range(3):
        labels = torch.tensor([label])
        runs = complete(model, VALUES, mask, method="importance", particles=2000, labels=labels, generator=seeded())
        log_p = log_p_with_z(model, label)
        exact = conditional(log_p, IMAGES, mask, VALUES)[0]
        assert runs.log_known.item() == pytest.approx(exact, abs=0.1)
        found.append(exact)
    assert max(found) - min(found) > 0.2  # the label matters


def test_errors() -> None:
    model = model_with_z()
    with pytest.raises(ValueError, match="complete: particles must be at least 1, got 0"):
        complete(model, VALUES, 1, method="importance", particles=0)
    with pytest.raises(ValueError, match=r"complete: threshold must be from 0 to 1, got 1\.5"):
        complete(model, VALUES, 1, method="importance", threshold=1.5)
    with pytest.raises(ValueError, match="complete: method must be one of gibbs, importance, got 'smc'"):
        complete(model, VALUES, 1, method="smc")  # type: ignore[call-overload]
    with pytest.raises(ValueError, match=r"known must come before all unknown pixels .*take method='importance'"):
        complete(model, VALUES, mask_of("bottom"))
    with pytest.raises(ValueError, match=r"complete: known must broadcast to x, \(1, 1, 3, 3\), got \(2, 3\)"):
        complete(model, VALUES, torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="complete: known must be a number of rows or a boolean mask"):
        complete(model, VALUES, torch.ones(3, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"complete: x must be \[B, 1, 3, 3\], got \(1, 1, 3, 4\)"):
        complete(model, torch.zeros(1, 1, 3, 4), 1)
    with pytest.raises(ValueError, match="draw: draws must be at least 1, got 0"):
        Completions(VALUES[None], torch.zeros(1, 1), torch.zeros(1), torch.zeros(1, 1).long()).draw(0)
    sampler, nothing = vf.PixelCNNSampler(decoder_with_strong_dependencies()), torch.full((3,), -math.inf)
    with pytest.raises(ValueError, match="known pixels must have a probability above 0"):
        weighted_samples(sampler, (mask_of("centre"), VALUES), 3, log_weights=nothing)


def test_a_model_without_z_needs_one_pass() -> None:
    """gibbs: the clamped draw itself; importance: what `weighted_samples` gives, with the model's noise."""
    model = vf.VLAE(1, 0, 8, 1, image_size=(3, 3), initial_kernel=3)
    drawn = complete(model, VALUES, 1, draws=5, rounds=7, generator=seeded())
    mask = mask_of("upper")
    none = torch.zeros(5, 0)
    assert drawn[0].equal(model.sampler().sample(none, generator=seeded(), known=(mask, VALUES)))
    found = complete(model, VALUES, mask_of("bottom"), method="importance", particles=300, generator=seeded())
    with torch.no_grad():
        log_p = model.likelihood.log_prob(model.decoder(IMAGES, torch.zeros(512, 0)), IMAGES).double()
    exact = conditional(log_p, IMAGES, mask_of("bottom"), VALUES)[0]
    assert found.log_known.item() == pytest.approx(exact, abs=0.1)


@torch.no_grad()
@pytest.mark.parametrize("sigma", [0.3, None])
def test_a_density(sigma: float | None) -> None:
    """Two gaussian pixels, the second known: log p(known) by integration over the first; means in [0, 1]."""
    torch.manual_seed(0)
    likelihood = make_likelihood("gaussian", 1, sigma=sigma)
    decoder = vf.PixelCNNDecoder(1, 0, 8, 1, image_size=(1, 2), initial_kernel=3, likelihood=likelihood)
    for parameter in decoder.parameters():
        parameter.mul_(3)
    first = torch.linspace(-8, 8, 20001)
    images = torch.stack([first, torch.full_like(first, 0.7)], 1).view(-1, 1, 1, 2)
    log_p = likelihood.log_prob(decoder(images), images).double()
    exact = log_p.logsumexp(0).item() + math.log(16 / 20000)
    known = torch.tensor([False, True]), torch.tensor([0.0, 0.7]).view(1, 1, 1, 2)
    found = weighted_samples(vf.PixelCNNSampler(decoder), known, 20000, generator=seeded())
    assert found.log_known.item() == pytest.approx(exact, abs=0.05)
