"""Autoregressive flow: the prior of a VLAE (an inverse autoregressive flow seen from z's side)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..layers import MADE
from ..ops import made_inverse

TRANSFORMS = ("affine", "mean-only")


class AutoregressiveFlow(nn.Module):
    """A bijection z <-> eps of ``n_steps`` MADE transforms, the order of the dimensions reversed between steps.

    Each step is ``eps = (z - shift(z)) * exp(-log_scale(z))`` (``transform="affine"``) or ``eps = z - shift(z)``
    (``"mean-only"``). The last layer starts at zero, so the flow starts as the identity (up to the order).

    Args:
        dim: D. hidden_dim, n_hidden, activation: of each MADE. backend: of the ops.

    ``forward(z [B, D]) -> (eps [B, D], log_det [B])`` and ``inverse(eps) -> (z, log_det)``, both with
    ``log_det = log|det d eps/d z|`` in nats, so ``log p(z) = log N(eps; 0, I) + log_det``.

    Source: Papamakarios et al. 2017, arXiv 1705.07057; Chen et al. 2017, arXiv 1611.02731, section 3.2.
    """

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        *,
        n_steps: int = 2,
        n_hidden: int = 2,
        transform: str = "affine",
        activation: str = "relu",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        if transform not in TRANSFORMS:
            raise ValueError(f"AutoregressiveFlow: transform must be one of {', '.join(TRANSFORMS)}, got {transform!r}")
        if n_steps < 1:
            raise ValueError(f"AutoregressiveFlow: n_steps must be positive, got {n_steps}")
        self.dim, self.backend = dim, backend
        outputs = 2 * dim if transform == "affine" else dim
        self.steps = nn.ModuleList()
        for _ in range(n_steps):
            made = MADE(dim, hidden_dim, outputs, n_hidden=n_hidden, activation=activation, backend=backend)
            last = made.masked_layers()[-1]
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.steps.append(made)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        self._check(z, "z")
        log_det = z.new_zeros(z.shape[0])
        for i, step in enumerate(self.steps):
            z = z.flip(1) if i else z
            params = step(z)
            z = z - params[:, : self.dim]
            if params.shape[1] > self.dim:
                z = z * torch.exp(-params[:, self.dim :])
                log_det = log_det - params[:, self.dim :].sum(1)
        return z, log_det

    def inverse(self, eps: Tensor) -> tuple[Tensor, Tensor]:
        self._check(eps, "eps")
        log_det = eps.new_zeros(eps.shape[0])
        mades = [step for step in self.steps if isinstance(step, MADE)]
        for i, made in reversed(list(enumerate(mades))):
            layers = made.masked_layers()
            eps, step_log_det = made_inverse(
                eps,
                [layer.weight for layer in layers],
                [layer.bias for layer in layers],
                made.degrees,
                activation=made.activation,
                backend=self.backend,
            )
            log_det = log_det + step_log_det
            eps = eps.flip(1) if i else eps
        return eps, log_det

    def _check(self, x: Tensor, name: str) -> None:
        if x.dim() != 2 or x.shape[1] != self.dim:
            raise ValueError(f"AutoregressiveFlow: {name} must be [B, {self.dim}], got {tuple(x.shape)}")


def standard_normal_log_prob(x: Tensor) -> Tensor:
    """``log N(x; 0, I)`` in nats, ``[B]``, of x ``[B, D]``."""
    return -0.5 * (x * x + math.log(2 * math.pi)).sum(1)
