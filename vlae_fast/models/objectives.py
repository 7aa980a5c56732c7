"""The terms of the ELBO, and what training minimises, made of them; all in nats per image.

A free-bits objective bounds the *mean* KL of a minibatch (Kingma et al. 2016, arXiv 1606.04934, eq. 15), since a bound
on the KL of every image would pay for spreading information evenly over images.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .likelihood import Bernoulli
from .likelihood_base import Likelihood
from .posterior import gaussian_log_prob


class LossTerms(NamedTuple):
    """Nats per image, ``[B]`` each; their sum is the negative ELBO."""

    reconstruction: Tensor  # -log p(x|z)
    kl: Tensor  # log q(z|x) - log p(z) of the same draw z, or its mean over z where that is known in closed form


def loss_terms(
    logits: Tensor,
    x: Tensor,
    mu: Tensor,
    logvar: Tensor,
    z: Tensor,
    log_pz: Tensor,
    likelihood: Likelihood | None = None,
) -> LossTerms:
    """``-log p(x|z)`` and the Monte Carlo KL ``log q(z|x) - log p(z)`` in nats per image, right for any prior.

    Arguments as in `loss_function`. `VLAE.loss_terms` has the KL in closed form where there is one.
    """
    log_px = (likelihood or Bernoulli(x.shape[1])).log_prob(logits, x)
    return LossTerms(-log_px, gaussian_log_prob(z, mu, logvar).sum(1) - log_pz)


def loss_function(
    logits: Tensor,
    x: Tensor,
    mu: Tensor,
    logvar: Tensor,
    z: Tensor | None = None,
    log_pz: Tensor | None = None,
    likelihood: Likelihood | None = None,
) -> Tensor:
    """Negative ELBO in nats, summed over the batch: reconstruction + log q(z|x) - log p(z), a scalar.

    All six tensors are needed: mu and logvar alone give the KL against N(0, I), which is wrong under a flow prior.

    Args:
        logits: ``[B, P, H, W]``, the parameters of the likelihood.
        x: ``[B, C, H, W]`` in [0, 1].
        mu, logvar, z: ``[B, D]``, a draw from q(z|x) and the mean and log-variance that score it.
        log_pz: ``[B]``, log p(z) under the prior, in nats.
        likelihood: ``model.likelihood``, whose parameters are the logits; None: Bernoulli.

    Raises:
        TypeError: z or log_pz is missing.

    Equivalent to, for Bernoulli pixels::

        reconstruction = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        log_qz = torch.distributions.Normal(mu, torch.exp(logvar / 2)).log_prob(z).sum()
        loss = reconstruction + log_qz - log_pz.sum()
    """
    if z is None or log_pz is None:
        missing = " and ".join(name for name, value in (("z", z), ("log_pz", log_pz)) if value is None)
        raise TypeError(
            f"loss_function: must be given logits, x, mu, logvar, z and log_pz, got no {missing}: the KL is "
            "log q(z|x) - log p(z) of the draw z under the model's own prior, which mu and logvar alone do not tell. "
            "`logits, mu, logvar, z, log_pz = model(x)` has them (logits, no probabilities), and model.loss_terms(x) "
            "takes the closed form where the prior is N(0, I)"
        )
    terms = loss_terms(logits, x, mu, logvar, z, log_pz, likelihood)
    return (terms.reconstruction + terms.kl).sum()


def negative_elbo(terms: LossTerms, beta: float = 1.0) -> Tensor:
    """``mean(reconstruction + beta * kl)`` of the terms: the negative ELBO where beta is 1.

    Source: Higgins et al. 2017 (beta-VAE); Bowman et al. 2016, arXiv 1511.06349 (a beta that rises from 0).
    """
    return (terms.reconstruction + beta * terms.kl).mean()


def free_bits(terms: LossTerms, nats: float, beta: float = 1.0, *, kl_per_dim: Tensor | None = None) -> Tensor:
    """``mean(reconstruction) + beta * max(mean(kl), nats)``: no pressure on the KL below `nats` per image.

    Args:
        terms: of a minibatch. beta: weight of the KL.
        nats: of the whole KL: a rule of r nats per data dimension (arXiv 1611.02731: 0.01) is ``nats = r * dims``.
        kl_per_dim: ``[B, D]`` (`VLAE.kl_per_dim`), or groups of dimensions summed up, ``[B, G]``: every column is kept
            above ``nats / G`` on its own, which keeps each of them in use.
    """
    if nats < 0:
        raise ValueError(f"free_bits: nats must not be negative, got {nats}")
    groups = terms.kl[:, None] if kl_per_dim is None else kl_per_dim
    if groups.dim() != 2 or groups.shape[0] != terms.kl.shape[0]:
        raise ValueError(f"free_bits: kl_per_dim must be [{terms.kl.shape[0]}, groups], got {tuple(groups.shape)}")
    kl = groups.mean(0).clamp(min=nats / groups.shape[1]).sum()
    return terms.reconstruction.mean() + beta * kl


class SoftFreeBits:
    """``mean(reconstruction + gamma * kl)`` with gamma steered so that the KL stays close above `nats` per image.

    gamma is multiplied by ``1 + rate`` after a minibatch whose mean KL is above ``nats * (1 + slack)``, and divided by
    it after one that is below `nats`; it stays in [least, 1]. Unlike `free_bits` the KL is always under some pressure,
    so the gradient has no cliff at `nats`.

    Every call of ``objective(terms)`` steers gamma for the next one; ``.gamma`` is all of its state, for a checkpoint.

    Source: Chen et al. 2017, arXiv 1611.02731, appendix C.
    """

    def __init__(
        self, nats: float, *, slack: float = 0.05, rate: float = 0.1, gamma: float = 1.0, least: float = 1e-4
    ) -> None:
        for name, value, rule, holds in (
            ("nats", nats, ">= 0", nats >= 0),
            ("slack", slack, ">= 0", slack >= 0),
            ("rate", rate, "> 0", rate > 0),
            ("least", least, "> 0 and <= 1", 0 < least <= 1),
            ("gamma", gamma, f">= {least} and <= 1", least <= gamma <= 1),
        ):
            if not (holds and math.isfinite(value)):
                raise ValueError(f"SoftFreeBits: {name} must be finite and {rule}, got {value}")
        self.nats, self.slack, self.rate, self.gamma, self.least = nats, slack, rate, gamma, least

    def __call__(self, terms: LossTerms) -> Tensor:
        loss = negative_elbo(terms, self.gamma)
        self.update(terms.kl.detach().mean().item())
        return loss

    def update(self, kl: float) -> None:
        """Steers gamma by the mean KL of a minibatch, nats per image."""
        if kl > self.nats * (1 + self.slack):
            self.gamma = min(1.0, self.gamma * (1 + self.rate))
        elif kl < self.nats:
            self.gamma = max(self.least, self.gamma / (1 + self.rate))


def iwae_bound(log_weights: Tensor) -> Tensor:
    """``log mean_k exp(log_weights[k])``, ``[K, B]`` -> ``[B]``: a lower bound of log p(x) in nats that rises with K.

    ``log_weights[k] = log p(x|z_k) + log p(z_k) - log q(z_k|x)``, which is ``-(reconstruction + kl)`` of the terms of
    one draw z_k; the ELBO is K = 1.

    Source: Burda et al. 2016, arXiv 1509.00519, eq. 8.
    """
    if log_weights.dim() != 2 or not log_weights.shape[0]:
        raise ValueError(f"iwae_bound: log_weights must be [K, B] with K at least 1, got {tuple(log_weights.shape)}")
    return torch.logsumexp(log_weights, 0) - math.log(log_weights.shape[0])
