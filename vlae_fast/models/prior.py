"""The choice of a prior's flow."""

from __future__ import annotations

import math

from .conv_flow import ConvFlow
from .flow import AutoregressiveFlow, Flow


def make_prior(
    latent_dim: int,
    latent_map: tuple[int, int] | None,
    hidden_dim: int,
    *,
    n_steps: int,
    n_hidden: int,
    transform: str,
    backend: str,
) -> Flow:
    """MADE flows for a z that is a vector, convolutional ones for a z that is a map of ``latent_map`` pixels."""
    if latent_map is None:
        return AutoregressiveFlow(
            latent_dim, hidden_dim, n_steps=n_steps, n_hidden=n_hidden, transform=transform, backend=backend
        )
    return ConvFlow(
        latent_dim // math.prod(latent_map),
        latent_map,
        hidden_dim,
        n_steps=n_steps,
        n_hidden=n_hidden,
        transform=transform,
        backend=backend,
    )
