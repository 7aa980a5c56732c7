"""Pictures of what a lossy code keeps: originals beside images drawn given their codes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..generation import DECOMPRESSIONS, decompress
from ..generation.decompression import shows_means
from ..generation.latent_space import draw
from ..models.vlae import VLAE
from .grids import grid, new_figure, show, unit

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def beside(x: Tensor, drawn: Tensor) -> Tensor:
    """Originals x [B, C, H, W] each followed by its drawn images [B, T, C, H, W] -> [B * (T + 1), C, H, W]."""
    return torch.cat([x[:, None], drawn.to(x)], 1).flatten(0, 1)


def plot_reconstructions(
    model: VLAE, images: Tensor, device: str | torch.device, *, labels: Tensor | None = None
) -> Figure:
    """Each row: an original and three images given its code z. images: [B, C, H, W], B <= 16 is readable.

    The images are draws from p(x | z), of plain VAEs (decoders ``mlp`` and ``deconv``) means E[x | z]. The model is
    moved to `device`. Local texture differs from draw to draw: z keeps what the decoder cannot see.
    """
    if images.dim() != 4 or len(images) == 0:
        raise ValueError(f"images: must be [B, C, H, W] with B > 0, got {tuple(images.shape)}")
    x = images.to(device).float()
    drawn = decompress(model.to(device), x, labels=labels)
    figure = _plain(beside(x, drawn), DECOMPRESSIONS + 1)
    what = "means E[x | z]" if shows_means(model) else "draws from p(x | z)"
    figure.suptitle(f"original, then {DECOMPRESSIONS} {what}, z ~ q(z | x)", fontsize="small")
    return figure


@torch.no_grad()
def plot_latent_sampling(
    model: VLAE, device: str | torch.device, latent_dim: int, n_samples: int, *, labels: Tensor | None = None
) -> Figure:
    """n_samples images: z from the model's prior (the inverted flow where there is one), pixels given z.

    Pixels are drawn, of plain VAEs (decoders ``mlp`` and ``deconv``) means. latent_dim: must be the model's.
    """
    if latent_dim != model.config["latent_dim"]:
        raise ValueError(f"latent_dim: must be the model's, {model.config['latent_dim']}, got {latent_dim}")
    if n_samples < 1:
        raise ValueError(f"n_samples: must be at least 1, got {n_samples}")
    z = model.to(device).sample_prior(n_samples)
    figure = _plain(draw(model, z, labels), math.ceil(math.sqrt(n_samples)))
    prior = "flow prior" if model.config.get("use_flow", True) else "N(0, I)"
    what = "means of" if shows_means(model) else "draws of"
    figure.suptitle(f"{n_samples} samples, {what} p(x | z), z ~ {prior} ({latent_dim} dimensions)", fontsize="small")
    return figure


def _plain(images: Tensor, columns: int) -> Figure:
    picture = grid(unit(images), columns)
    height, width = picture.shape[1:]
    figure = new_figure(width / 50, height / 50 + 0.4)
    axes = figure.add_subplot()
    show(axes, picture)
    axes.set_axis_off()
    return figure
