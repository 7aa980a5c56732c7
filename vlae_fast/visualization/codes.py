"""The information that latent dimensions carry."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .grids import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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


def plot_bits_heatmap(mu: Tensor, logvar: Tensor, *, labels: Tensor | None = None) -> Figure:
    """`code_bits` of a batch: a row per image, a column per latent dimension (most used first), bits as colour.

    labels: [B], of classes: rows are sorted by them.
    This is not the KL to the prior, which `evaluation.encode` estimates for any prior. A column that is dark for every
    image is a dimension that the model does not use.
    """
    bits = code_bits(mu, logvar)
    order = bits.mean(0).argsort(descending=True)
    figure = new_figure(0.18 * bits.shape[1] + 2, 0.08 * len(bits) + 1.6)
    axes = figure.add_subplot()
    rows = torch.arange(len(bits), device=bits.device) if labels is None else labels.argsort(stable=True)
    picture = axes.imshow(bits[rows][:, order].numpy(), aspect="auto", interpolation="nearest", cmap="viridis", vmin=0)
    figure.colorbar(picture, label="KL(q(z_d | x) || batch's Gaussian)  [bits]")
    axes.set(xlabel="latent dimension, most used first", ylabel="image")
    if labels is not None:
        classes, counts = labels[rows].unique_consecutive(return_counts=True)
        axes.set_yticks((counts.cumsum(0) - counts / 2 - 0.5).tolist(), [str(label) for label in classes.tolist()])
        axes.set_ylabel("image, by class")
    axes.set_title(f"{bits.sum(1).mean():.1f} bits per image in all dimensions", fontsize="small")
    return figure
