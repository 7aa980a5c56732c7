"""Codes for particles: from the prior, and from what the encoder finds in images that were completed before."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..models.posterior import gaussian_log_prob
from ..models.vlae import VLAE
from ..sampling.emit import Known
from .particles import Completions, Sampler, weighted_samples

GUESSES = 16  # images whose codes the proposal of z is made of
PRIOR = 0.5  # its share of the prior: no weight of z is above 1 / PRIOR


def particles_of(
    model: VLAE,
    sampler: Sampler,
    known: Known,
    particles: int,
    threshold: float,
    rounds: int,
    labels: Tensor | None,
    generator: torch.Generator | None,
) -> Completions:
    """The particles of one image; labels: its own, once for each."""
    # Guesses come of runs without resampling: one with it often ends in one origin, and so in one code.
    guesses, rounds = None, rounds if model.latent_dim else 0
    for left in reversed(range(rounds + 1)):
        z, log_weights = _codes(model, guesses, particles, labels, generator)
        found = weighted_samples(
            sampler, known, particles, z=model.condition(z, labels), log_weights=log_weights,
            threshold=0 if left else threshold, generator=generator,
        )  # fmt: skip
        guesses = found.draw(min(particles, GUESSES), generator)[0] if left else None
    return found


def _codes(
    model: VLAE, guesses: Tensor | None, n: int, labels: Tensor | None, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """z ``[n, D]`` from a mixture of the prior and of q(z | guess) for each guess.

    Beside it, its ``log p(z) - log mixture(z)``, ``[n]``.
    """
    z = model.sample_prior(n, generator)
    if guesses is None:
        return z, z.new_zeros(n)
    _, mu, logvar = model.posterior_sample(guesses, None if labels is None else labels[: len(guesses)], generator)
    chosen = torch.randint(len(mu), (n,), device=z.device, generator=generator)
    noise = torch.randn(z.shape, dtype=z.dtype, device=z.device, generator=generator)
    from_prior = torch.rand(n, 1, device=z.device, generator=generator) < PRIOR
    z = torch.where(from_prior, z, mu[chosen] + torch.exp(0.5 * logvar[chosen]) * noise)
    log_p = model.log_prior(z).double()
    log_q = gaussian_log_prob(z[:, None], mu, logvar).double().sum(2).logsumexp(1) - math.log(len(mu))
    return z, log_p - torch.logaddexp(log_p + math.log(PRIOR), log_q + math.log(1 - PRIOR))
