"""Pictures of what a lossy code keeps: originals beside images drawn given their codes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..generation import DECOMPRESSIONS, decompress
from ..generation.decompression import shows_means
from ..generation.latent_space import draw
from ..models.vlae import VLAE
from .grids import plot_images, plot_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def beside(x: Tensor, drawn: Tensor) -> Tensor:
    """Originals x [B, C, H, W] each followed by its drawn images [B, T, C, H, W] -> [B * (T + 1), C, H, W]."""
    return torch.cat([x[:, None], drawn.to(x)], 1).flatten(0, 1)


def plot_reconstructions(
    model: VLAE,
    images: Tensor,
    device: str | torch.device,
    *,
    labels: Tensor | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Each row: an original and three images given its code z. images: [B, C, H, W], B <= 16 is readable.

    The images are draws from p(x | z), of plain VAEs (decoders ``mlp`` and ``deconv``) means E[x | z]. Local texture
    differs from draw to draw: z keeps what the decoder cannot see.

    ax: axes to draw on, those of a new figure where not given. The model is moved to `device`.
    """
    if images.dim() != 4 or len(images) == 0:
        raise ValueError(f"images: must be [B, C, H, W] with B > 0, got {tuple(images.shape)}")
    x = images.to(device).float()
    drawn = decompress(model.to(device), x, labels=labels)
    what = "means E[x | z]" if shows_means(model) else "draws from p(x | z)"
    title = f"original, then {DECOMPRESSIONS} {what}, z ~ q(z | x)"
    return plot_table(beside(x, drawn).unflatten(0, (len(x), -1)), title, ax=ax)


@torch.no_grad()
def plot_latent_sampling(
    model: VLAE,
    device: str | torch.device,
    latent_dim: int,
    n_samples: int,
    *,
    labels: Tensor | None = None,
    ax: Axes | None = None,
) -> Figure:
    """n_samples images: z from the model's prior (the inverted flow where there is one), pixels given z.

    Pixels are drawn, of plain VAEs (decoders ``mlp`` and ``deconv``) means. latent_dim: must be the model's. ax: axes
    to draw on, those of a new figure where not given.
    """
    if latent_dim != model.config["latent_dim"]:
        raise ValueError(f"latent_dim: must be the model's, {model.config['latent_dim']}, got {latent_dim}")
    if n_samples < 1:
        raise ValueError(f"n_samples: must be at least 1, got {n_samples}")
    z = model.to(device).sample_prior(n_samples)
    prior = "flow prior" if model.config.get("use_flow", True) else "N(0, I)"
    what = "means of" if shows_means(model) else "draws of"
    title = f"{n_samples} samples, {what} p(x | z), z ~ {prior} ({latent_dim} dimensions)"
    return plot_images(model.likelihood.clip(draw(model, z, labels)), title, ax=ax)
