"""Pictures: grids of images as PNG, and figures for reports and notebooks.

The plot functions return a matplotlib Figure that belongs to no window and to no global list: `figure.savefig(path)`
writes it, a notebook shows it, nothing has to be closed.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ._extras import require
from .models.vlae import VLAE
from .sampling import PixelCNNSampler

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DECOMPRESSIONS = 3
_BORDER = 2  # pixels between the tiles of a grid
_SCALE = 2  # screen pixels per image pixel: 28 pixels alone are a stamp


def grid(images: Tensor, columns: int) -> Tensor:
    """[N, C, H, W] -> one picture [C, H', W'], row by row; borders and the rest of the last row are grey (0.5)."""
    if images.dim() != 4 or len(images) == 0:
        raise ValueError(f"images: must be [N, C, H, W] with N > 0, got {tuple(images.shape)}")
    if columns < 1:
        raise ValueError(f"columns: must be at least 1, got {columns}")
    n, channels, height, width = images.shape
    columns = min(columns, n)
    rows = math.ceil(n / columns)
    picture = images.new_full(
        (channels, rows * (height + _BORDER) + _BORDER, columns * (width + _BORDER) + _BORDER), 0.5
    )
    for i, image in enumerate(images):
        top, left = i // columns * (height + _BORDER) + _BORDER, i % columns * (width + _BORDER) + _BORDER
        picture[:, top : top + height, left : left + width] = image
    return picture


def save_grid(images: Tensor, path: str | Path, columns: int = 10) -> None:
    """Writes images in 0..1, [N, 1 or 3, H, W], as one PNG."""
    picture = grid(images.detach().float().cpu(), columns).clamp(0, 1)
    if picture.shape[0] not in (1, 3):
        raise ValueError(f"images: must have 1 or 3 channels, got {picture.shape[0]}")
    pixels = picture.repeat_interleave(_SCALE, 1).repeat_interleave(_SCALE, 2).expand(3, -1, -1).permute(1, 2, 0)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    require("matplotlib.image").imsave(path, pixels.mul(255).round().byte().numpy(), format="png")


@torch.no_grad()
def decompress(
    model: VLAE, x: Tensor, times: int = DECOMPRESSIONS, *, generator: torch.Generator | None = None
) -> Tensor:
    """Images [B, times, C, H, W] drawn from p(x | z), one z ~ q(z | x) per draw: what a lossy code keeps of x."""
    mu, logvar = model.encoder(x.repeat_interleave(times, 0))
    z = model.reparameterize(mu, logvar, generator)
    return PixelCNNSampler(model.decoder).sample(z, generator=generator).unflatten(0, (len(x), times))


def beside(x: Tensor, drawn: Tensor) -> Tensor:
    """Originals [B, C, H, W] each followed by its draws [B, T, C, H, W] -> [B * (T + 1), C, H, W]."""
    return torch.cat([x[:, None], drawn.to(x)], 1).flatten(0, 1)


def plot_reconstructions(model: VLAE, images: Tensor, device: str | torch.device) -> Figure:
    """Each row: an original and three images drawn given its code z. images: binary, [B, C, H, W], B <= 16 is readable.

    The model is moved to `device`. Local texture differs from draw to draw: z keeps what the decoder cannot see.
    """
    if images.dim() != 4 or len(images) == 0:
        raise ValueError(f"images: must be [B, C, H, W] with B > 0, got {tuple(images.shape)}")
    x = images.to(device).float()
    drawn = decompress(model.to(device), x)
    figure = _show(beside(x, drawn), DECOMPRESSIONS + 1)
    figure.suptitle(f"original, then {DECOMPRESSIONS} draws from p(x | z), z ~ q(z | x)", fontsize="small")
    return figure


@torch.no_grad()
def plot_latent_sampling(model: VLAE, device: str | torch.device, latent_dim: int, n_samples: int) -> Figure:
    """n_samples images: z from the model's prior (the inverted flow where there is one), pixels given z."""
    if latent_dim != model.config["latent_dim"]:
        raise ValueError(f"latent_dim: must be the model's, {model.config['latent_dim']}, got {latent_dim}")
    if n_samples < 1:
        raise ValueError(f"n_samples: must be at least 1, got {n_samples}")
    z = model.to(device).sample_prior(n_samples)
    figure = _show(PixelCNNSampler(model.decoder).sample(z), math.ceil(math.sqrt(n_samples)))
    prior = "flow prior" if model.config.get("use_flow", True) else "N(0, I)"
    figure.suptitle(f"{n_samples} samples, z ~ {prior} ({latent_dim} dimensions)", fontsize="small")
    return figure


def code_bits(mu: Tensor, logvar: Tensor) -> Tensor:
    """How far q(z_d | x_b) stands out from the batch, in bits, [B, D]: KL(q(z_d | x_b) || N(m_d, s_d^2)) / ln 2.

    m_d and s_d^2 are the mean and the variance of z_d over the batch's mixture, (1/B) sum_b q(z_d | x_b):
    m_d = mean_b mu_bd, s_d^2 = mean_b (exp(logvar_bd) + (mu_bd - m_d)^2). The mean over the batch is an upper bound on
    the information I(x; z_d) within the batch, whatever the prior: no prior enters.
    """
    if mu.dim() != 2 or mu.shape != logvar.shape or len(mu) < 2:
        raise ValueError(
            f"mu, logvar: must both be [B, D] with B >= 2, got {tuple(mu.shape)} and {tuple(logvar.shape)}"
        )
    mu, logvar = mu.detach().double().cpu(), logvar.detach().double().cpu()
    variance = logvar.exp().mean(0) + mu.var(0, correction=0)
    nats = 0.5 * (variance.log() - logvar + (logvar.exp() + (mu - mu.mean(0)).square()) / variance - 1)
    return nats / math.log(2)


def plot_bits_heatmap(mu: Tensor, logvar: Tensor) -> Figure:
    """`code_bits` of a batch: a row per image, a column per latent dimension (most used first), bits as colour.

    Not the KL to the prior: under a flow prior that has no closed form and does not split into dimensions. `evaluate`
    gives it, by Monte Carlo. A column that is dark for every image is a dimension that the model does not use.
    """
    bits = code_bits(mu, logvar)
    order = bits.mean(0).argsort(descending=True)
    figure = _figure(0.18 * bits.shape[1] + 2, 0.08 * len(bits) + 1.6)
    axes = figure.add_subplot()
    picture = axes.imshow(bits[:, order].numpy(), aspect="auto", interpolation="nearest", cmap="viridis", vmin=0)
    figure.colorbar(picture, label="KL(q(z_d | x) || batch's Gaussian)  [bits]")
    axes.set(xlabel="latent dimension, most used first", ylabel="image")
    axes.set_title(f"{bits.sum(1).mean():.1f} bits per image in all dimensions", fontsize="small")
    return figure


def _show(images: Tensor, columns: int) -> Figure:
    picture = grid(images.float().cpu(), columns)
    height, width = picture.shape[1:]
    figure = _figure(width / 50, height / 50 + 0.4)
    axes = figure.add_subplot()
    pixels: Any = picture[0] if len(picture) == 1 else picture.permute(1, 2, 0)
    axes.imshow(pixels.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_axis_off()
    return figure


def _figure(width: float, height: float) -> Figure:
    """At least 4 inches wide, so that titles fit; at most 20 either way."""
    size = (min(max(width, 4.0), 20.0), min(max(height, 2.0), 20.0))
    figure: Figure = require("matplotlib.figure").Figure(figsize=size, layout="constrained")
    return figure
