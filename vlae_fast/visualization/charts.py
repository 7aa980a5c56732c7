"""Charts: figures of an evaluation, a detection, an embedding, a training run, the collapse experiment."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..evaluation import ClassRow, Detection
from .figures import axes_in
from .grids import grid, show, unit
from .ticks import number_dimensions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

_MANY_CLASSES = 12  # more than that and a legend says nothing


def plot_evaluation(
    kl_per_dim: Tensor,
    classes: Sequence[ClassRow] = (),
    *,
    active: int | None = None,
    fig: Figure | SubFigure | None = None,
) -> Figure:
    """The mean KL of each latent dimension, kl_per_dim [D] in nats, most used first; reconstruction and KL per class.

    A bar has its dimension's number below it. classes: from `evaluation.by_class`. active: the number of active units,
    from `evaluation.active_units`. fig: a figure or sub-figure to draw in, a new one where not given.
    """
    if kl_per_dim.dim() != 1 or len(kl_per_dim) == 0:
        raise ValueError(f"kl_per_dim: must be [D] with D > 0, got {tuple(kl_per_dim.shape)}")
    bars = min(max(0.135 * len(kl_per_dim), 5.0), 18.0)  # inches
    figure, _, axes = axes_in(
        fig, bars + (6 if classes else 1), 3.5, 1, 2 if classes else 1, width_ratios=[bars, 5] if classes else [1]
    )  # fmt: skip
    kl, order = kl_per_dim.detach().double().cpu().sort(descending=True)
    axes[0].bar(range(len(kl)), kl.numpy(), width=1.0, edgecolor="white", linewidth=0.3)
    axes[0].set(xlabel="latent dimension, most used first", ylabel="KL  [nats per image]", xlim=(-0.6, len(kl) - 0.4))
    number_dimensions(axes[0], order)
    units = "" if active is None else f", {active} of {len(kl)} units active"
    axes[0].set_title(f"KL {kl.sum():.2f} nats per image{units}", fontsize="small")
    if classes:
        at, bottoms = range(len(classes)), [row.reconstruction for row in classes]
        axes[1].bar(at, bottoms, label="reconstruction")
        axes[1].bar(at, [row.kl for row in classes], bottom=bottoms, label="KL")
        if len(classes) <= 3 * _MANY_CLASSES:
            axes[1].set_xticks(at, [str(row.label) for row in classes])
        axes[1].set(xlabel="class", ylabel="negative ELBO  [nats per image]")
        axes[1].legend(fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    return figure


def plot_detection(
    found: Detection, normal: str = "normal", anomalous: str = "anomalous", *, fig: Figure | SubFigure | None = None
) -> Figure:
    """The scores found of both kinds of images, under the names normal and anomalous; the threshold; the ROC curve.

    fig: a figure or sub-figure to draw in, a new one where not given.
    """
    figure, _, (scores, roc) = axes_in(fig, 10, 4, 1, 2, width_ratios=[1.6, 1])
    both = torch.cat([found.normal, found.anomalous]).double()
    count = min(60, max(10, 2 * math.isqrt(len(both))))
    bins = torch.linspace(both.min().item() - 1e-6, both.max().item() + 1e-6, count).tolist()
    for part, name in ((found.normal, normal), (found.anomalous, anomalous)):
        scores.hist(part.numpy(), bins=bins, density=True, alpha=0.6, label=f"{name} ({len(part):,})")
    label = f"threshold {found.threshold:.1f}: {100 * found.quantile:g} % of validation"
    scores.axvline(found.threshold, color="black", linestyle="--", linewidth=1, label=label)
    scores.set(xlabel="score: bound of -log p(x)  [nats per image]", ylabel="density")
    scores.legend(fontsize="small")
    roc.plot(found.false_positive_rate.numpy(), found.true_positive_rate.numpy(), label=f"AUC {found.auc:.4f}")
    roc.plot([0, 1], [0, 1], color="grey", linestyle=":", linewidth=1)
    roc.plot(found.false_alarms, found.found, "k.", label="at the threshold")
    roc.set(xlabel=f"share of {normal} flagged", ylabel=f"share of {anomalous} found", aspect="equal")
    roc.legend(fontsize="small", loc="lower right")
    return figure


def plot_embedding(
    points: Tensor,
    labels: Tensor | None = None,
    *,
    title: str,
    plane: tuple[Tensor, Tensor] | None = None,
    fig: Figure | SubFigure | None = None,
) -> Figure:
    """points [N, 2] coloured by label; beside them the `plane` of `latent_space.plane`, where given.

    fig: a figure or sub-figure to draw in, a new one where not given.
    """
    if points.dim() != 2 or points.shape[1] != 2 or len(points) == 0:
        raise ValueError(f"points: must be [N, 2] with N > 0, got {tuple(points.shape)}")
    if labels is not None and labels.shape != points.shape[:1]:
        raise ValueError(f"labels: must be one per point, [{len(points)}], got {tuple(labels.shape)}")
    figure, _, axes = axes_in(fig, 12 if plane else 6.5, 6, 1, 2 if plane else 1)
    _scatter(axes[0], points, labels)
    axes[0].set_title(title, fontsize="small")
    if plane is None:
        axes[0].set(xticks=[], yticks=[])  # t-SNE keeps neighbours; its axes and distances mean nothing
        return figure
    images, corners = plane
    (left, bottom), (right, top) = corners.tolist()
    show(
        axes[1], grid(unit(images.flatten(0, 1)), images.shape[1]), extent=(left, right, bottom, top),
        aspect="auto",
    )  # fmt: skip
    for one in axes:
        one.set(xlabel="$z_1$", ylabel="$z_2$")
    axes[1].set_title("images over the plane", fontsize="small")
    return figure


def plot_curves(
    history: Sequence[Mapping[str, float]], *, title: str = "", fig: Figure | SubFigure | None = None
) -> Figure:
    """The negative ELBO and its terms over the epochs, of training and of validation images, in nats per image.

    history: of a checkpoint, one dict per epoch. fig: a figure or sub-figure to draw in, a new one where not given.
    """
    if not history:
        raise ValueError("history: must have at least one epoch, got none")
    figure, part, all_axes = axes_in(fig, 11, 3.6, 1, 3)
    epochs = [row["epoch"] for row in history]
    marker = "." if len(history) < 30 else ""
    for axes, term in zip(all_axes, ("loss", "reconstruction", "kl"), strict=True):
        for prefix, name in (("", "training"), ("valid_", "validation")):
            if all(prefix + term in row for row in history):
                axes.plot(epochs, [row[prefix + term] for row in history], marker=marker, label=name)
        shown = {"loss": "negative ELBO", "kl": "KL"}.get(term, term)
        axes.set(xlabel="epoch", ylabel=f"{shown}  [nats per image]")
        axes.locator_params(axis="x", integer=True)
        axes.legend(fontsize="small")
    part.suptitle(title, fontsize="small")
    return figure


def plot_collapse(
    points: Sequence[Mapping[str, Any]], *, title: str = "", fig: Figure | SubFigure | None = None
) -> Figure:
    """KL and reconstruction against the size of the decoder's receptive field, nats per image.

    Where several models have one receptive field, as of several seeds, the lines go through their means, bars show
    their standard deviation, and a dot each model.

    points: dicts with pixels, kl, reconstruction, as `collapse.run` gives. fig: a figure or sub-figure to draw in, a
    new one where not given.
    """
    if not points:
        raise ValueError("points: must have at least one model, got none")
    figure, part, (kls, losses) = axes_in(fig, 9, 3.8, 1, 2)
    _line_of_means(kls, points, lambda p: p["kl"], "o-")
    kls.set(ylabel="KL: what z tells  [nats per image]", ylim=(0, None))
    _line_of_means(losses, points, lambda p: p["kl"] + p["reconstruction"], "o-", label="negative ELBO")
    _line_of_means(losses, points, lambda p: p["reconstruction"], "s--", label="reconstruction")
    losses.set(ylabel="nats per image")
    losses.legend(fontsize="small")
    pixels = sorted({point["pixels"] for point in points})
    for axes in (kls, losses):
        axes.set_xscale("log")
        axes.set_xlabel("receptive field  [pixels before the one that is drawn]")
        axes.set_xticks(pixels, [str(count) for count in pixels], fontsize="small")
        axes.minorticks_off()
    part.suptitle(title, fontsize="small")
    return figure


def _line_of_means(
    axes: Axes,
    points: Sequence[Mapping[str, Any]],
    of: Callable[[Mapping[str, Any]], float],
    style: str,
    label: str = "",
) -> None:
    """The mean of each number of pixels; with its standard deviation and every model where there are more."""
    pixels = sorted({point["pixels"] for point in points})
    values = [[of(point) for point in points if point["pixels"] == count] for count in pixels]
    means = [statistics.fmean(row) for row in values]
    if max(map(len, values)) == 1:
        axes.plot(pixels, means, style, label=label)
        return
    spreads = [statistics.stdev(row) if len(row) > 1 else 0.0 for row in values]
    drawn = axes.errorbar(pixels, means, yerr=spreads, fmt=style, capsize=3, markersize=4, label=label)
    at = [count for count, row in zip(pixels, values, strict=True) for _ in row]
    axes.plot(at, [value for row in values for value in row], ".", color=drawn.lines[0].get_color(), alpha=0.4)


def _scatter(axes: Axes, points: Tensor, labels: Tensor | None) -> None:
    x, y = points.detach().float().cpu().unbind(1)
    size = min(12.0, max(1.0, 8000 / len(points)))
    if labels is None:
        axes.scatter(x.numpy(), y.numpy(), s=size)
        return
    classes = labels.unique().tolist()
    colours = "tab10" if len(classes) <= 10 else "nipy_spectral"
    drawn = axes.scatter(
        x.numpy(), y.numpy(), s=size, c=labels.numpy(), cmap=colours, vmin=classes[0], vmax=classes[-1]
    )
    if len(classes) <= _MANY_CLASSES:
        handles, names = drawn.legend_elements(num=[float(label) for label in classes], fmt="{x:.0f}")
        axes.legend(handles, names, fontsize="x-small", title="class", title_fontsize="x-small")
