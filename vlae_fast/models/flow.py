"""Autoregressive flow: the prior of a VLAE (an inverse autoregressive flow seen from z's side)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..layers import MADE
from ..layers.hooked_weight import weight_and_bias
from ..ops import made_inverse
from .precision import wide

__all__ = ["TRANSFORMS", "AutoregressiveFlow", "Flow", "standard_normal_log_prob"]

TRANSFORMS = ("affine", "mean-only")


class Flow(nn.Module):
    """A bijection z <-> eps of autoregressive steps, the order reversed between steps.

    Each step is ``eps = (z - shift(z)) * exp(-log_scale(z))`` (``transform="affine"``) or ``eps = z - shift(z)``
    (``"mean-only"``), shift and log_scale of an element being functions of the elements before it.

    A subclass has ``shape``, that of one z, channels first; ``order``, the dimensions of a batch of z along which the
    order runs; and ``steps``, modules that give (shift, log_scale), one after the other in the channels.
    """

    shape: tuple[int, ...]
    order: tuple[int, ...]
    steps: nn.ModuleList

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """eps and ``log_det = log|det d eps/d z|``, ``[B]`` in nats, in float32 at least."""
        eps, log_slope = self._transform(z)
        return eps.to(z.dtype), log_slope.flatten(1).sum(1)

    def inverse(self, eps: Tensor) -> tuple[Tensor, Tensor]:
        """z for eps in the shape of z, and the same log_det as in `forward`."""
        raise NotImplementedError

    def log_prob_per_dim(self, z: Tensor) -> Tensor:
        """Every element's share of ``log p(z)`` in nats, in the shape of z; the shares add up to log p(z).

        With one step it is ``log p(z_d | z_<d)``. With more, the share of the element that became eps_d.
        """
        eps, log_slope = self._transform(z)
        share = log_slope - 0.5 * (eps * eps + math.log(2 * math.pi))
        return share if len(self.steps) % 2 else share.flip(self.order)

    def _transform(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """eps, and ``log(d eps_d / d z_d)`` of every element, in float32 at least."""
        self._check(z, "z")
        dtype, z = z.dtype, wide(z)  # a step is given what it takes
        channels, log_slope = self.shape[0], torch.zeros_like(z)
        for i, step in enumerate(self.steps):
            if i:
                z, log_slope = z.flip(self.order), log_slope.flip(self.order)
            params = wide(step(z.to(dtype)))
            z = z - params[:, :channels]
            if params.shape[1] > channels:
                z = z * torch.exp(-params[:, channels:])
                log_slope = log_slope - params[:, channels:]
        return z, log_slope

    def _check(self, x: Tensor, name: str) -> None:
        if tuple(x.shape[1:]) != self.shape:
            rule = ", ".join(map(str, self.shape))
            raise ValueError(f"{type(self).__name__}: {name} must be [B, {rule}], got {tuple(x.shape)}")


def check_flow(flow: str, transform: str, n_steps: int) -> None:
    """Raises ValueError unless transform and n_steps are ones that a flow has; `flow` is the name of the caller."""
    if transform not in TRANSFORMS:
        raise ValueError(f"{flow}: transform must be one of {', '.join(TRANSFORMS)}, got {transform!r}")
    if n_steps < 1:
        raise ValueError(f"{flow}: n_steps must be positive, got {n_steps}")


class AutoregressiveFlow(Flow):
    """A flow of ``n_steps`` MADEs. The last layers start at zero: it starts as the identity (up to the order).

    Args:
        dim: D. hidden_dim, n_hidden, activation: of each `MADE`. n_steps: MADEs. transform: ``affine`` or
            ``mean-only``, see `Flow`.
        backend: of the ops.

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
        check_flow("AutoregressiveFlow", transform, n_steps)
        self.dim, self.backend = dim, backend
        self.shape, self.order = (dim,), (1,)
        outputs = 2 * dim if transform == "affine" else dim
        self.steps = nn.ModuleList()
        for _ in range(n_steps):
            made = MADE(dim, hidden_dim, outputs, n_hidden=n_hidden, activation=activation, backend=backend)
            last = made.masked_layers()[-1]
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.steps.append(made)

    def inverse(self, eps: Tensor) -> tuple[Tensor, Tensor]:
        self._check(eps, "eps")
        mades: list[Any] = list(reversed(self.steps))  # all of them: a compiled MADE is no MADE by its class
        if len(names := {made.activation for made in mades}) > 1:
            raise ValueError(f"AutoregressiveFlow: steps must have the same activation, got {', '.join(sorted(names))}")
        layers = [weight_and_bias(layer) for made in mades for layer in made.masked_layers()]
        return made_inverse(
            eps,
            [weight for weight, _ in layers],
            [bias for _, bias in layers],
            mades[0].degrees,
            activation=mades[0].activation,
            backend=self.backend,
        )


def standard_normal_log_prob(x: Tensor) -> Tensor:
    """``log N(x; 0, I)`` in nats, ``[B]``, of x ``[B, D]``, in float32 at least."""
    x = wide(x)
    return -0.5 * (x * x + math.log(2 * math.pi)).sum(1)
