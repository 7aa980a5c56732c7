"""Draws from p(image | any of its pixels): sequential importance resampling on the cached sampler.

A particle is an image that is drawn in the decoder's order with its known pixels clamped. The decoder gives the
probability of each known pixel given the pixels before it, as the draw reaches it; their product is the particle's
weight. Where the weights grow uneven after some rows, particles are drawn anew by their weights, and the rows that
follow are drawn anew for each. Weighted means over the particles approach those under p(image | known pixels) as the
particles become many, and the mean weight is an unbiased estimate of p(known pixels).

Source: Gordon et al. 1993, IEE Proceedings F 140 (2); Doucet and Johansen 2009, A tutorial on particle filtering.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor

from ..models.likelihood import Bernoulli
from ..sampling import FactorizedSampler, PixelCNNSampler
from ..sampling.emit import Known, make_noise

Sampler = PixelCNNSampler | FactorizedSampler


class Completions(NamedTuple):
    """Weighted images that fit what is known of B images, K particles for each.

    images: ``[B, K, C, H, W]``. log_weights: ``[B, K]``, nats, float64; their exponentials add up to 1. log_known:
    ``[B]``, nats, float64: the estimate of ``log p(known pixels)``, whose exponential is unbiased. origins: ``[B, K]``,
    the number of the particle that each descends from, of the K that were drawn first.
    """

    images: Tensor
    log_weights: Tensor
    log_known: Tensor
    origins: Tensor

    def mean(self) -> Tensor:
        """The expected image given the known pixels, ``[B, C, H, W]``: the mean of the particles by their weights."""
        return torch.einsum("bk,bkchw->bchw", self.log_weights.exp().to(self.images), self.images)

    def effective(self) -> Tensor:
        """The effective number of independent particles, ``[B]`` from 1 to K: near 1, more particles are needed.

        It is ``1 / sum_o W_o^2``, W_o the weight of all particles of one origin: they have z and upper rows in common.
        """
        weights = self.log_weights.exp()
        return 1 / torch.zeros_like(weights).scatter_add(1, self.origins, weights).square().sum(1)

    def draw(self, draws: int, generator: torch.Generator | None = None) -> Tensor:
        """Images ``[B, draws, C, H, W]``: particles chosen by their weights, with replacement."""
        if draws < 1:
            raise ValueError(f"draw: draws must be at least 1, got {draws}")
        rows = [_by_weight(row, draws, generator) for row in self.log_weights]
        return torch.stack([images[index] for images, index in zip(self.images, rows, strict=True)])


@torch.no_grad()
def weighted_samples(
    sampler: Sampler,
    known: Known,
    particles: int,
    *,
    z: Tensor | None = None,
    log_weights: Tensor | None = None,
    threshold: float = 0.5,
    generator: torch.Generator | None = None,
) -> Completions:
    """Particles that fit the known pixels of one image (B = 1), by sequential importance resampling.

    Args:
        sampler: `PixelCNNSampler`, or of `fast_sampler`, or `FactorizedSampler`.
        known: (mask, values) as in `PixelCNNSampler.sample`, broadcastable to ``[1, C, H, W]``; any mask.
        particles: K. The bias falls as 1 / K, the Monte Carlo error as 1 / sqrt(K).
        z: ``[K, D]`` of each particle, as the sampler takes it; None for a decoder without z.
        log_weights: ``[K]``, ``log p(z) - log q(z)`` of what z was drawn from, nats; None: z is from the prior.
        threshold: particles are drawn anew by weight where their effective number is below threshold * K. 0: never,
            which is plain importance sampling. Each such row costs one more pass over K images; so a call costs from 1
            to H passes.

    Raises:
        ValueError: an argument breaks a rule above, or the known pixels have probability 0 under each particle.

    >>> import torch, vlae_fast as vf
    >>> sampler = vf.PixelCNNSampler(vf.PixelCNNDecoder(1, 0, 8, 1, image_size=(6, 6)))
    >>> lower = (torch.arange(6) >= 3)[:, None]
    >>> found = weighted_samples(sampler, (lower, torch.ones(1, 1, 6, 6)), 16)
    >>> found.images.shape, bool((found.images[..., 3:, :] == 1).all())
    (torch.Size([1, 16, 1, 6, 6]), True)
    """
    check_particles("weighted_samples", particles, threshold)
    decoder = sampler.decoder
    channels, (height, width) = decoder.input_dim, decoder.image_size
    shape = (channels, height, width)
    likelihood = getattr(decoder, "likelihood", None) or Bernoulli(channels)
    mask, images = known[0].expand(1, *shape), known[1]
    images = images if images.is_floating_point() else images.to(torch.get_default_dtype())
    log_w = torch.zeros(particles, device=images.device) if log_weights is None else log_weights
    log_w, log_known, start = log_w.double(), torch.zeros((), dtype=torch.float64, device=images.device), 0
    row = torch.arange(height, device=images.device)
    origins = torch.arange(particles, device=images.device)
    useful = _rows_between(mask) & bool(sampler.offsets_seen())
    while True:
        noise = None if z is not None else make_noise(likelihood.emit, particles, shape, images, generator)
        images, params = sampler.propose(cast(Tensor, z), noise, generator, (mask | (row < start)[:, None], images))
        gained = likelihood.log_weight(params, images, mask.expand_as(images)).double().sum(2)  # [K, H]
        log_sums = log_w[:, None] + gained.where(row >= start, 0).cumsum(1)
        if not log_sums[:, -1].isfinite().any():
            raise ValueError("weighted_samples: known pixels must have a probability above 0, got 0 in every particle")
        uneven = useful & (row >= start) & (_effective(log_sums) < threshold * particles)
        if not uneven.any():
            break
        stop = int(uneven.nonzero()[0])
        log_known, log_w = log_known + _log_mean(log_sums[:, stop]), torch.zeros_like(log_w)
        index = _by_weight(log_sums[:, stop], particles, generator)
        images, z, origins, start = images[index], None if z is None else z[index], origins[index], stop + 1
    log_w = log_sums[:, -1]
    log_known = log_known + _log_mean(log_w)
    return Completions(images[None], log_w.log_softmax(0)[None], log_known[None], origins[None])


def check_particles(who: str, particles: int, threshold: float) -> None:
    """Raises ValueError in the name of `who` for a number of particles or a threshold that is out of range."""
    if particles < 1:
        raise ValueError(f"{who}: particles must be at least 1, got {particles}")
    if not 0 <= threshold <= 1:
        raise ValueError(f"{who}: threshold must be from 0 to 1, got {threshold}")


def _rows_between(mask: Tensor) -> Tensor:
    """Rows ``[H]`` after which there are both unknown pixels at or above and known pixels below.

    Elsewhere nothing is gained by drawing particles anew: no pixel that differs between them would be drawn again to
    meet a known one.
    """
    known, unknown = mask[0].any(0).any(1), ~mask[0].all(0).all(1)
    below = known.flip(0).cumsum(0).flip(0) - known.long()
    return (unknown.cumsum(0) > 0) & (below > 0)


def _effective(log_weights: Tensor) -> Tensor:
    """``(sum_k w_k)^2 / sum_k w_k^2`` over dimension 0; 0 where every weight is 0."""
    return (2 * log_weights.logsumexp(0) - (2 * log_weights).logsumexp(0)).exp().nan_to_num(0.0)


def _log_mean(log_weights: Tensor) -> Tensor:
    return log_weights.logsumexp(0) - math.log(len(log_weights))


def _by_weight(log_weights: Tensor, n: int, generator: torch.Generator | None) -> Tensor:
    """n indices by weight: systematic resampling, which draws each between floor(n w) and ceil(n w) times."""
    first = torch.rand(1, dtype=torch.float64, device=log_weights.device, generator=generator)
    at = (torch.arange(n, device=log_weights.device) + first) / n
    return torch.searchsorted(log_weights.softmax(0).cumsum(0), at).clamp(max=len(log_weights) - 1)
