"""The posterior: a Gaussian whose mean and variance an encoder gives, or an inverse autoregressive flow of one."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import MADE
from .precision import wide, wide_under_autocast

POSTERIORS = ("gaussian", "iaf")
_OPEN = 2.0  # added to the gates: a flow starts close to the identity, where it trains well


class PosteriorSample(NamedTuple):
    """A draw z and the mean and log-variance with ``log q(z|x) = log N(z; mu, exp(logvar))``, ``[B, D]`` each."""

    z: Tensor
    mu: Tensor
    logvar: Tensor


def gaussian_log_prob(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """``log N(z_d; mu_d, exp(logvar_d))`` in nats, of every dimension, in the shape of z, in float32 at least."""
    z, mu, logvar = wide(z), wide(mu), wide(logvar)
    return -0.5 * (logvar + (z - mu) ** 2 * torch.exp(-logvar) + math.log(2 * math.pi))


def gaussian_kl(mu: Tensor, logvar: Tensor) -> Tensor:
    """``KL(N(mu_d, exp(logvar_d)) || N(0, 1)) = (mu_d^2 + exp(logvar_d) - 1 - logvar_d) / 2`` of every dimension d.

    In nats, in the shape of mu, in float32 at least. Source: Kingma and Welling 2014, arXiv 1312.6114, appendix B.
    """
    mu, logvar = wide(mu), wide(logvar)
    return 0.5 * (mu * mu + torch.expm1(logvar) - logvar)


class InverseAutoregressivePosterior(nn.Module):
    """eps ~ N(0, I) -> z by ``n_steps`` steps ``z <- s * z + (1 - s) * m``, s in (0, 1) and m from a MADE of z and x.

    The first z is ``mu + exp(logvar / 2) * eps``; the order of the dimensions is reversed between steps. All of z is
    computed in one pass a step, since eps is known: what a posterior needs, and no more than that.

    Args:
        dim: D. hidden_dim, n_hidden: of each `MADE`. n_steps: MADEs. context_dim: channels of what the encoder tells
            every step about x.
        backend: of the layers.

    ``forward(mu, logvar, context [B, context_dim], eps)`` gives z and its *effective* mean and log-variance: with S the
    sum of the log scales of all steps, ``logvar' = logvar + 2 S`` and ``mu' = z - exp(logvar' / 2) * eps``. Every step
    has a triangular Jacobian, so ``log q(z|x) = log N(eps; 0, I) - sum(logvar' / 2) = log N(z; mu', exp(logvar'))``
    exactly, and whatever scores a Gaussian posterior scores this one.

    Source: Kingma et al. 2016, arXiv 1606.04934, algorithm 1.
    """

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        *,
        context_dim: int,
        n_steps: int = 2,
        n_hidden: int = 2,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        if n_steps < 1:
            raise ValueError(f"InverseAutoregressivePosterior: n_steps must be positive, got {n_steps}")
        self.dim, self.context_dim = dim, context_dim
        self.steps = nn.ModuleList(
            MADE(
                dim,
                hidden_dim,
                2 * dim,
                n_hidden=n_hidden,
                context_dim=context_dim,
                activation="elu",
                backend=backend,
            )
            for _ in range(n_steps)
        )

    def forward(self, mu: Tensor, logvar: Tensor, context: Tensor, eps: Tensor) -> PosteriorSample:
        """z, mu' and logvar', ``[B, D]`` each, from mu, logvar and eps of the same shape."""
        mu, logvar, eps = map(wide_under_autocast, (mu, logvar, eps))
        z = mu + torch.exp(0.5 * logvar) * eps
        for i, made in enumerate(self.steps):
            turned = i % 2 == 1
            params = wide_under_autocast(made(z.flip(1) if turned else z, context)).unflatten(1, (2, self.dim))
            shift, gate = (params.flip(2) if turned else params).unbind(1)
            log_scale = F.logsigmoid(gate + _OPEN)
            scale = log_scale.exp()
            z = scale * z + (1 - scale) * shift
            logvar = logvar + 2 * log_scale
        return PosteriorSample(z, z - torch.exp(0.5 * logvar) * eps, logvar)
