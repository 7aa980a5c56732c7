"""Priors and posteriors against brute force: log p(z) and log q(z|x) by Jacobians, shares of dimensions, KLs of 0."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import vlae_fast as vf
from vlae_fast.models.flow import Flow, standard_normal_log_prob
from vlae_fast.models.posterior import gaussian_log_prob
from vlae_fast.models.vlae import loss_terms


def randomized(module: torch.nn.Module, std: float = 0.3) -> torch.nn.Module:
    for p in module.parameters():
        torch.nn.init.normal_(p, std=std)
    return module.double()


def vector_flow(transform: str, n_steps: int) -> Flow:
    return randomized(vf.AutoregressiveFlow(6, 16, n_steps=n_steps, transform=transform))


def map_flow(transform: str, n_steps: int) -> Flow:
    return randomized(vf.ConvFlow(2, (2, 3), 5, n_steps=n_steps, transform=transform))


FLOWS = [
    pytest.param(make, transform, n_steps, id=f"{make.__name__}-{transform}-{n_steps}")
    for make in (vector_flow, map_flow)
    for transform in ("affine", "mean-only")
    for n_steps in (1, 2, 3)
]


def jacobian(function, point: Tensor) -> Tensor:
    """``[P, P]`` of a function of one flattened point."""
    return torch.autograd.functional.jacobian(function, point)


@pytest.mark.parametrize(("make", "transform", "n_steps"), FLOWS)
def test_log_prior_is_the_change_of_variables(make, transform: str, n_steps: int) -> None:
    flow = make(transform, n_steps)
    dim = math.prod(flow.shape)
    model = vf.VLAE(latent_dim=dim, hidden_dim=4, n_layers=0, image_size=(4, 4), flow_hidden=4)
    model.prior = flow
    z = torch.randn(3, dim, dtype=torch.float64)
    log_pz = model.log_prior(z)
    for b in range(3):
        eps_of = jacobian(lambda v: flow(v.view(1, *flow.shape))[0].flatten(), z[b])
        eps = flow(z[b].view(1, *flow.shape))[0].flatten()
        brute = -0.5 * (eps**2 + math.log(2 * math.pi)).sum() + torch.linalg.slogdet(eps_of).logabsdet
        torch.testing.assert_close(log_pz[b], brute, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("make", "transform", "n_steps"), FLOWS)
def test_inverse_and_shares(make, transform: str, n_steps: int) -> None:
    """z -> eps undoes eps -> z, with one log_det; the dimensions' shares add up to log p(z)."""
    flow = make(transform, n_steps)
    eps = torch.randn(4, *flow.shape, dtype=torch.float64)
    z, log_det = flow.inverse(eps)
    back, forward_log_det = flow(z)
    torch.testing.assert_close(back, eps, rtol=0, atol=1e-10)
    torch.testing.assert_close(log_det, forward_log_det, rtol=0, atol=1e-10)
    total = standard_normal_log_prob(eps.flatten(1)) + log_det
    torch.testing.assert_close(flow.log_prob_per_dim(z).flatten(1).sum(1), total, rtol=0, atol=1e-10)


def test_shares_of_one_step_are_the_conditionals() -> None:
    """The share of dimension d does not change with the dimensions after it, and integrates to 1 over z_d."""
    flow = vector_flow("affine", 1)
    z = torch.randn(1, 6, dtype=torch.float64)
    share = flow.log_prob_per_dim(z)
    later = z.clone()
    later[:, 3:] += 1
    assert flow.log_prob_per_dim(later)[:, :3].equal(share[:, :3])
    axis = torch.linspace(-40, 40, 4001, dtype=torch.float64)
    grid = z.repeat(4001, 1)
    grid[:, 2] = axis
    assert abs(flow.log_prob_per_dim(grid)[:, 2].exp().sum().item() * 0.02 - 1) < 1e-6


def test_shares_stay_with_their_dimensions() -> None:
    """A flow of two steps that only move z: each share is that of the same dimension under N(0, I)."""
    flow = vf.AutoregressiveFlow(3, 8, n_steps=2).double()  # starts as the identity up to the order
    z = torch.randn(5, 3, dtype=torch.float64)
    torch.testing.assert_close(flow.log_prob_per_dim(z), torch.distributions.Normal(0, 1).log_prob(z))


def test_convolutional_flow_is_autoregressive_in_raster_order() -> None:
    """eps of a pixel depends on that pixel, on no later one, and on earlier ones."""
    flow = map_flow("affine", 1)
    z = torch.randn(12, dtype=torch.float64)
    slope = jacobian(lambda v: flow(v.view(1, 2, 2, 3))[0].flatten(), z).view(2, 6, 2, 6)
    for pixel in range(6):
        assert (slope[:, pixel, :, pixel + 1 :] == 0).all()
        assert (torch.diagonal(slope[:, pixel, :, pixel]) > 0).all()
    assert (slope[:, 5, :, 4] != 0).any() and (slope[:, 3, :, 0] != 0).any()


def test_steps_reverse_the_order() -> None:
    """With two steps every element of eps may depend on every element of z."""
    flow = map_flow("affine", 2)
    slope = jacobian(lambda v: flow(v.view(1, 2, 2, 3))[0].flatten(), torch.randn(12, dtype=torch.float64))
    assert (slope != 0).sum() > 12 * 12 * 0.8


@pytest.mark.parametrize("n_steps", [1, 2, 3])
def test_flow_posterior_is_scored_exactly_as_a_gaussian(n_steps: int) -> None:
    """log N(z; mu, exp(logvar)) of what it returns = log N(eps) - log|det dz/d eps| by a brute-force Jacobian."""
    dim, batch = 5, 3
    posterior = randomized(vf.InverseAutoregressivePosterior(dim, 16, context_dim=4, n_steps=n_steps))
    mu, logvar, context = (torch.randn(batch, d, dtype=torch.float64) for d in (dim, dim, 4))
    eps = torch.randn(batch, dim, dtype=torch.float64)
    z, effective_mu, effective_logvar = posterior(mu, logvar, context, eps)
    log_q = gaussian_log_prob(z, effective_mu, effective_logvar).sum(1)
    for b in range(batch):
        row = slice(b, b + 1)
        z_of = jacobian(lambda v, row=row: posterior(mu[row], logvar[row], context[row], v[None]).z[0], eps[b])
        brute = standard_normal_log_prob(eps)[b] - torch.linalg.slogdet(z_of).logabsdet
        torch.testing.assert_close(log_q[b], brute, rtol=0, atol=1e-10)
    assert (effective_logvar - logvar).abs().min() > 0


@pytest.mark.parametrize("transform", ["affine", "mean-only"])
def test_kl_is_zero_where_the_posterior_is_the_prior(transform: str) -> None:
    """q and p the same flow of the same eps: every image's KL is 0, not only the mean; a wrong sign would show."""
    flow = vector_flow(transform, 2)
    eps = torch.randn(50, 6, dtype=torch.float64)
    z, log_det = flow.inverse(eps)
    logvar = (-2 * log_det / 6)[:, None].expand(-1, 6)  # any split of the determinant over the dimensions
    mu = z - torch.exp(0.5 * logvar) * eps
    zeros = torch.zeros(50, 1, 2, 2, dtype=torch.float64)
    log_pz = standard_normal_log_prob(flow(z)[0]) + flow(z)[1]
    kl = loss_terms(zeros, zeros, mu, logvar, z, log_pz).kl
    torch.testing.assert_close(kl, torch.zeros_like(kl), rtol=0, atol=1e-9)


def test_kl_of_different_gaussians_has_its_sign() -> None:
    """The Monte Carlo KL of N(2, 0.25) to N(0, 1) against the closed form."""
    mu, logvar = torch.full((200000, 1), 2.0), torch.full((200000, 1), 2 * math.log(0.5))
    z = mu + torch.exp(0.5 * logvar) * torch.randn(200000, 1)
    kl = (gaussian_log_prob(z, mu, logvar).sum(1) - standard_normal_log_prob(z)).mean().item()
    assert abs(kl - (math.log(2) + (0.25 + 4) / 2 - 0.5)) < 0.02


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: vf.ConvFlow(2, (2, 2), 4, transform="cubic"), "ConvFlow: transform must be one of.*got 'cubic'"),
        (lambda: vf.ConvFlow(2, (2, 2), 4, n_hidden=0), "ConvFlow: n_hidden must be positive, got 0"),
        (lambda: vf.ConvFlow(2, (2, 2), 4)(torch.zeros(1, 8)), r"z must be \[B, 2, 2, 2\], got \(1, 8\)"),
        (lambda: vf.ConvFlow(2, (2, 2), 4).inverse(torch.zeros(1, 8)), r"eps must be \[B, 2, 2, 2\], got"),
    ],
)
def test_errors(call, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call()


@pytest.mark.parametrize("transform", ["affine", "mean-only"])
def test_sampler_inverse_is_the_inverse_by_passes(transform: str) -> None:
    """Without gradients every activation is computed once; the result is that of one pass per pixel."""
    flow = map_flow(transform, 3)
    eps = torch.randn(4, *flow.shape, dtype=torch.float64)
    slow, slow_log_det = flow.inverse(eps)
    with torch.no_grad():
        fast, fast_log_det = flow.inverse(eps)
    assert slow.requires_grad and not fast.requires_grad
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-10)
    torch.testing.assert_close(fast_log_det, slow_log_det, rtol=0, atol=1e-10)
