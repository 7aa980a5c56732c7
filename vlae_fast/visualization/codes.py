"""The information that latent dimensions carry."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .figures import one_axes
from .ticks import number_dimensions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ORDERS = {"use": "most used first", "index": "by number"}  # of the columns of a heatmap, and in words


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


def plot_bits_heatmap(
    mu: Tensor,
    logvar: Tensor,
    *,
    labels: Tensor | None = None,
    order: str = "use",
    ax: Axes | None = None,
) -> Figure:
    """`code_bits` of a batch: a row per image, a column per latent dimension, bits as colour.

    labels: [B], of classes: rows are sorted by them. order: of the columns, "use" (most bits first) or "index"; each
    column has its dimension's number below it. ax: axes to draw on, those of a new figure where not given.
    This is not the KL to the prior, which `evaluation.encode` estimates for any prior. A column that is dark for every
    image is a dimension that the model does not use.
    """
    if order not in _ORDERS:
        raise ValueError(f"order: must be one of {', '.join(_ORDERS)}, got {order!r}")
    bits = code_bits(mu, logvar)
    columns = bits.mean(0).argsort(descending=True) if order == "use" else torch.arange(bits.shape[1], device="cpu")
    figure, axes = one_axes(ax, 0.18 * bits.shape[1] + 2, min(max(0.08 * len(bits) + 1.6, 3.8), 8.0))
    rows = torch.arange(len(bits), device="cpu") if labels is None else labels.cpu().argsort(stable=True)
    picture = axes.imshow(
        bits[rows][:, columns].numpy(), aspect="auto", interpolation="nearest", cmap="viridis", vmin=0
    )  # fmt: skip
    axes.grid(False)  # which a style may draw
    figure.colorbar(picture, ax=axes, label="KL(q(z_d | x) || batch's Gaussian)  [bits]")
    axes.set(xlabel=f"latent dimension, {_ORDERS[order]}", ylabel="image")
    number_dimensions(axes, columns)
    if labels is not None:
        classes, counts = labels.cpu()[rows].unique_consecutive(return_counts=True)
        axes.set_yticks((counts.cumsum(0) - counts / 2 - 0.5).tolist(), [str(label) for label in classes.tolist()])
        axes.set_ylabel("image, by class")
    axes.set_title(f"{bits.sum(1).mean():.1f} bits per image in all dimensions", fontsize="small")
    return figure
