"""Densities of grey and colour values: formulas, integrals, draws, and what their bits per dimension mean."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import vlae_fast as vf
from vlae_fast.models.decoders.kinds import KINDS
from vlae_fast.models.densities import ContinuousBernoulli, Gaussian
from vlae_fast.models.likelihood import make_likelihood
from vlae_fast.reference.pixelcnn_draw import inverse_cdf

LEAST = 1 / 510
ETAS = (0.0, 1e-9, -1e-3, 0.3, -0.499, 0.5, -0.501, 3.0, -40.0, 300.0, -3000.0)
AUTOREGRESSIVE = [kind for kind in KINDS if KINDS[kind].autoregressive]


def pixel(*values: float, dtype: torch.dtype = torch.float64) -> Tensor:
    """``[1, len(values), 1, 1]``."""
    return torch.tensor(values, dtype=dtype).view(1, -1, 1, 1)


def sigma_of(s: float, levels: int = 256) -> float:
    return float(make_likelihood("gaussian", 1, levels=levels).head(pixel(0.0, s))[0, 1].exp())


def test_a_gaussian_of_fixed_sigma_is_the_squared_error() -> None:
    x, mean, s = torch.rand(3, 2, 4, 5), torch.randn(3, 2, 4, 5, requires_grad=True), 0.3
    log_prob = make_likelihood("gaussian", 2, sigma=s).log_prob(mean, x)
    wanted = -((x - mean) ** 2) / (2 * s * s) - math.log(s * math.sqrt(2 * math.pi))
    torch.testing.assert_close(log_prob, wanted.sum((1, 2, 3)))
    (gradient,) = torch.autograd.grad(-log_prob.sum(), mean)
    (of_mse,) = torch.autograd.grad(torch.nn.functional.mse_loss(mean, x, reduction="sum"), mean)
    torch.testing.assert_close(gradient, of_mse / (2 * s * s))


def test_a_gaussian_of_learnt_sigma_has_one_of_each_pixel_and_channel() -> None:
    params, x = torch.randn(2, 6, 3, 4, dtype=torch.float64), torch.rand(2, 3, 3, 4, dtype=torch.float64)
    params[:, 3:] = params[:, 3:].clamp(-2, 2) - 3.1
    normal = torch.distributions.Normal(params[:, :3], params[:, 3:].exp())  # between the bends: s itself
    torch.testing.assert_close(Gaussian(3).log_prob(params, x), normal.log_prob(x).sum((1, 2, 3)))
    torch.testing.assert_close(Gaussian(3).mean(params), params[:, :3])


def test_a_learnt_sigma_stays_above_half_a_level_and_below_one() -> None:
    bend = math.log(LEAST) + 1
    assert sigma_of(bend + 1e-9) == pytest.approx(LEAST * math.e) and sigma_of(bend - 1e-9) == pytest.approx(
        LEAST * math.e
    )
    assert sigma_of(bend - 1) == pytest.approx(LEAST * math.exp(math.exp(-1)))
    assert sigma_of(-1e4) == pytest.approx(LEAST) and sigma_of(-1e4, levels=5) == pytest.approx(1 / 8)
    assert sigma_of(-1.0) == pytest.approx(math.exp(-1)) and sigma_of(0.0) == pytest.approx(math.exp(-math.exp(-1)))
    assert 0.999 < sigma_of(1e4) <= 1 and [sigma_of(-1e4, 2), sigma_of(0.3068528, 2)] == pytest.approx(
        [0.5, math.e / 2]
    )
    s = torch.full((1, 2, 1, 1), -12.0, requires_grad=True)
    (-Gaussian(1).log_prob(s, torch.ones(1, 1, 1, 1)).sum()).backward()
    assert s.grad is not None and s.grad[0, 1].item() < 0  # a pixel that is wrong still asks for a larger sigma


@pytest.mark.parametrize("mean", [0.0, 0.3, 1.25 / 255, 0.5 / 255, 1.0])
def test_bits_of_a_gaussian_are_near_those_of_a_code_of_the_levels(mean: float) -> None:
    """The density puts at most 1.0145 in total on all levels: the claim of 0.021 bits per dimension."""
    assert math.log2(1.0145) < 0.021
    x = torch.arange(-2000, 2001, dtype=torch.float64).view(-1, 1, 1, 1) / 255
    for s in (-1e4, -6.0, -4.0, -2.0):
        likelihood = make_likelihood("gaussian", 1)
        nats = -likelihood.log_prob(pixel(mean, s).expand(len(x), -1, 1, 1), x)
        bits = torch.tensor([likelihood.bits_per_dim(value, 1) for value in nats.tolist()], dtype=torch.float64)
        total = (2**-bits).sum().item()
        assert total < 1.0145 and (s > -6 or total > 0.98)


def test_bits_of_a_density_are_counted_at_levels() -> None:
    uniform = -math.log(1.0)  # a density of 1 on [0, 1] says nothing about 256 levels: log2(255) bits each
    assert make_likelihood("continuous_bernoulli", 1).bits_per_dim(uniform, 1) == pytest.approx(math.log2(255))
    assert make_likelihood("gaussian", 3, levels=5).bits_per_dim(12 * math.log(2), 6) == pytest.approx(2 + 2)
    assert make_likelihood("categorical", 1).bits_per_dim(8 * math.log(2), 1) == pytest.approx(8)


@pytest.mark.parametrize("eta", ETAS)
def test_a_continuous_bernoulli_integrates_to_one(eta: float) -> None:
    width = min(1.0, 60 / max(abs(eta), 1e-9))  # beyond, the density is nothing
    x = torch.linspace(0, width, 200_001, dtype=torch.float64).view(-1, 1, 1, 1)
    x = 1 - x if eta > 0 else x
    params = pixel(eta).expand(len(x), -1, 1, 1)
    p = ContinuousBernoulli(1).log_prob(params, x).exp()
    step = width / 200_000
    assert (p.sum() - (p[0] + p[-1]) / 2).item() * step == pytest.approx(1, abs=1e-8)
    moment = p * x.flatten()
    mean = (moment.sum() - (moment[0] + moment[-1]) / 2).item() * step
    assert ContinuousBernoulli(1).mean(pixel(eta)).item() == pytest.approx(mean, abs=2e-8)


@pytest.mark.parametrize("eta", [-7.0, -1.0, 0.6, 5.0])
def test_a_continuous_bernoulli_by_its_definition(eta: float) -> None:
    """``C lambda^x (1 - lambda)^(1 - x)`` with ``C = 2 artanh(1 - 2 lambda) / (1 - 2 lambda)``, the paper's eq. 2."""
    lam, x = 1 / (1 + math.exp(-eta)), 0.3
    constant = 2 * math.atanh(1 - 2 * lam) / (1 - 2 * lam)
    wanted = math.log(constant) + x * math.log(lam) + (1 - x) * math.log(1 - lam)
    assert ContinuousBernoulli(1).log_prob(pixel(eta), pixel(x)).item() == pytest.approx(wanted, abs=1e-12)
    cross_entropy = -make_likelihood("bernoulli", 1).log_prob(pixel(eta), pixel(x)).item()
    assert cross_entropy == pytest.approx(math.log(constant) - wanted, abs=1e-12)


def test_a_continuous_bernoulli_in_float32() -> None:
    """Near one half too, where its constant is 0 / 0: value, mean and slope are those of float64."""
    eta = torch.cat([torch.linspace(-2, 2, 401), torch.logspace(-12, 2, 57), -torch.logspace(-12, 2, 57)])
    likelihood, found = ContinuousBernoulli(1), []
    for dtype in (torch.float32, torch.float64):
        params = eta.to(dtype).view(-1, 1, 1, 1).requires_grad_()
        log_prob = likelihood.log_prob(params, torch.full_like(params, 0.25))
        (slope,) = torch.autograd.grad(log_prob.sum(), params)
        found.append([log_prob.detach().double(), slope.double().flatten(), likelihood.mean(params).double().flatten()])
    for narrow, wide in zip(*found, strict=True):
        assert (narrow - wide).abs().max() < 1e-5 * 30
    assert (found[0][0] - found[1][0])[:401].abs().max() < 1e-6
    _, slope, mean = found[1]
    torch.testing.assert_close(slope, 0.25 - mean, rtol=0, atol=1e-9)  # an exponential family: x minus its mean
    params = torch.tensor([0.0, 1e-4, 0.5, -0.5, 4.0], dtype=torch.float64).view(-1, 1, 1, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: likelihood.log_prob(p, torch.full_like(p, 0.1)), params)


@pytest.mark.parametrize("eta", ETAS)
def test_a_draw_of_a_continuous_bernoulli_is_at_its_share_of_the_mass(eta: float) -> None:
    u = torch.tensor([0.0, 1e-6, 0.25, 0.5, 0.75, 1 - 1e-6], dtype=torch.float64)
    x = inverse_cdf(torch.tensor(eta, dtype=torch.float64), u)
    assert (x >= 0).all() and (x <= 1).all() and (x.diff() >= 0).all()
    rate, share = -abs(eta), 1 - u if eta > 0 else u
    y = 1 - x if eta > 0 else x
    cdf = torch.expm1(rate * y) / math.expm1(rate) if rate else y
    torch.testing.assert_close(cdf, share, rtol=1e-9, atol=1e-9)


def test_draws_of_a_density_have_its_moments() -> None:
    n = 40_000
    params = pixel(0.4, -0.2, -2.0, -1.5).expand(n, -1, 1, 1)
    x = Gaussian(2).draw(params, torch.randn(n, 2, 1, 1, dtype=torch.float64), 0.5)
    torch.testing.assert_close(x.mean(0).flatten(), params[0, :2].flatten(), rtol=0, atol=0.01)
    torch.testing.assert_close(x.std(0).flatten(), 0.5 * params[0, 2:].exp().flatten(), rtol=0.02, atol=0)
    eta = pixel(-3.0, 0.0, 8.0).expand(n, -1, 1, 1)
    bernoulli = ContinuousBernoulli(3)
    x = bernoulli.draw(eta, torch.rand(n, 3, 1, 1, dtype=torch.float64))
    bernoulli.check(x)
    torch.testing.assert_close(x.mean(0), bernoulli.mean(eta)[0], rtol=0, atol=0.006)


@pytest.mark.parametrize("sigma", [None, 0.2])
@pytest.mark.parametrize("kind", KINDS)
def test_gaussian_pixels_are_drawn_by_every_decoder(kind: str, sigma: float | None) -> None:
    """The sampler's stages and noise are those of one full pass per pixel; a gaussian is drawn from normal noise."""
    sizes = {"latent_dim": 3, "hidden_dim": 6, "n_layers": 2, "image_size": (5, 4), "use_flow": False}
    model = vf.VLAE(2, decoder=kind, likelihood="gaussian", likelihood_sigma=sigma, **sizes)
    for p in model.decoder.parameters():
        torch.nn.init.normal_(p, std=p[0].numel() ** -0.5 if p.dim() > 1 else 0.2)
    z, noise = torch.randn(4, 3), torch.randn(4, 2, 5, 4)
    drawn = model.sampler().sample(z, noise)
    torch.testing.assert_close(drawn, vf.naive_sample(model.decoder, z, noise), rtol=1e-4, atol=1e-4)
    params = model.decoder(drawn, z)
    mean, log_sigma = model.likelihood.head(params).chunk(2, 1)
    torch.testing.assert_close(drawn, mean + log_sigma.exp() * noise, rtol=1e-4, atol=1e-4)
    if sigma is not None:
        assert log_sigma.exp().allclose(torch.tensor(sigma))
    images = model.sample(300, torch.Generator().manual_seed(0))
    assert images.min() < -0.1  # as no uniform noise with means near 0 would be


@pytest.mark.parametrize("kind", ["mlp", "deconv"])
def test_continuous_bernoulli_pixels_are_drawn_in_one_pass(kind: str) -> None:
    sizes = {"latent_dim": 3, "hidden_dim": 8, "n_layers": 2, "image_size": (6, 5), "use_flow": False}
    model = vf.VLAE(decoder=kind, likelihood="continuous_bernoulli", **sizes)
    z, noise = torch.randn(4, 3), torch.rand(4, 1, 6, 5)
    drawn = model.sampler().sample(z, noise)
    expected = inverse_cdf(model.decoder(drawn, z).double(), noise.double()).float()
    assert drawn.equal(expected) and drawn.unique().numel() == drawn.numel()
    known = (torch.arange(6)[:, None] < 2, torch.full((4, 1, 6, 5), 0.3))
    assert (model.sampler().sample(z, noise, known=known)[:, :, :2] == 0.3).all()
    with pytest.raises(ValueError, match="known must have values from 0 to 1 where the mask is set, got 1\\.5"):
        model.sampler().sample(z, noise, known=(known[0], known[1] + 1.2))


@pytest.mark.parametrize("kind", AUTOREGRESSIVE)
def test_a_continuous_bernoulli_pixel_by_pixel_is_refused(kind: str) -> None:
    rule = "VLAE: decoder must be mlp or deconv for likelihood 'continuous_bernoulli', got '.*': no backend draws"
    with pytest.raises(ValueError, match=rule):
        vf.VLAE(decoder=kind, likelihood="continuous_bernoulli")
    decoder = KINDS[kind](1, 0, 4, 1, image_size=(5, 5), likelihood=ContinuousBernoulli(1))
    with pytest.raises(
        ValueError, match=r"PixelCNNSampler: decoder must have a likelihood .* got continuous_bernoulli"
    ):
        vf.PixelCNNSampler(decoder)


def test_errors() -> None:
    with pytest.raises(ValueError, match="likelihood: sigma must be finite and > 0, got 0"):
        make_likelihood("gaussian", 1, sigma=0.0)
    with pytest.raises(ValueError, match="likelihood: sigma must be None for a 'categorical' likelihood, got 0"):
        make_likelihood("categorical", 1, sigma=0.1)
    with pytest.raises(ValueError, match="VLAE: likelihood_sigma must be None for likelihood 'bernoulli', got 0"):
        vf.VLAE(likelihood_sigma=0.1)
    with pytest.raises(ValueError, match="VLAE: likelihood_sigma must be finite and > 0, got -1"):
        vf.VLAE(likelihood="gaussian", likelihood_sigma=-1)
    with pytest.raises(ValueError, match="continuous_bernoulli likelihood: x must be from 0 to 1, got -0"):
        ContinuousBernoulli(1).check(torch.tensor([-0.5]))
    Gaussian(1).check(torch.tensor([-0.5]))
