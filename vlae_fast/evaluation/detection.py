"""Anomaly detection: an image is unusual where the model needs more nats for it than for nearly all of its own."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .._extras import require
from ..data import Images, Source, Split
from ..models.vlae import VLAE
from .elbo import per_image
from .importance import importance_nll


class Detection(NamedTuple):
    """The result of `detect`. All scores in nats.

    threshold: the `quantile` of the validation scores; an image is anomalous above it.

    false_alarms, found: shares of the normal and of the anomalous images above the threshold. auc: the area under the
    ROC curve, the probability that an anomalous image scores higher than a normal one; no threshold enters.
    """

    normal: Tensor
    anomalous: Tensor
    threshold: float
    quantile: float
    false_alarms: float
    found: float
    auc: float
    false_positive_rate: Tensor  # of the ROC curve
    true_positive_rate: Tensor  # likewise

    def __str__(self) -> str:
        return (
            f"AUC {self.auc:.4f}; threshold {self.threshold:.2f} nats/image ({100 * self.quantile:g} % of validation "
            f"below): {100 * self.found:.1f} % of {len(self.anomalous):,} anomalous found, "
            f"{100 * self.false_alarms:.1f} % of {len(self.normal):,} normal images flagged"
        )


class Anomaly(NamedTuple):
    """An image of `most_anomalous`.

    image: its place in the scores. label: its class, where known. score: in nats. flagged: whether the score is above
    the threshold.
    """

    image: int
    label: int | None
    score: float
    flagged: bool


def most_anomalous(scores: Tensor, threshold: float, *, labels: Tensor | None = None, n: int = 20) -> list[Anomaly]:
    """The n highest of the scores [N] in nats, the highest first; all where there are fewer.

    labels: [N], the images' classes. threshold: in nats, as `detect` sets it.
    """
    if scores.dim() != 1 or len(scores) == 0:
        raise ValueError(f"scores: must be [N] with N > 0, got {tuple(scores.shape)}")
    if labels is not None and labels.shape != scores.shape:
        raise ValueError(f"labels: must be one per score, [{len(scores)}], got {tuple(labels.shape)}")
    if n < 1:
        raise ValueError(f"n: must be at least 1, got {n}")
    highest = scores.sort(descending=True, stable=True)
    return [
        Anomaly(index, None if labels is None else int(labels[index]), score, score > threshold)
        for score, index in zip(highest.values[:n].tolist(), highest.indices[:n].tolist(), strict=True)
    ]


def anomaly_scores(
    model: VLAE,
    images: Images | Source,
    split: Split = "test",
    *,
    samples: int = 1,
    batch_size: int = 256,
    seed: int = 0,
    progress: bool = False,
) -> Tensor:
    """Nats of every image, ``[N]``: the negative ELBO with one sample, the importance-weighted bound with more.

    samples: draws of z an image.

    A simple image is cheap whatever the model was trained on: a data set of smoother images may score as normal.
    """
    if samples == 1:
        terms = per_image(model, images, split, batch_size=batch_size, seed=seed)
        return terms.reconstruction + terms.kl
    return importance_nll(model, images, split, samples=samples, batch_size=batch_size, seed=seed, progress=progress)


def detect(validation: Tensor, normal: Tensor, anomalous: Tensor, quantile: float = 0.95) -> Detection:
    """Sets the threshold at a quantile of the validation scores; counts the normal and the anomalous ones above it."""
    for name, scores in (("validation", validation), ("normal", normal), ("anomalous", anomalous)):
        if scores.dim() != 1 or len(scores) == 0 or not scores.isfinite().all():
            raise ValueError(f"{name}: must be finite scores [N] with N > 0, got {tuple(scores.shape)}")
    if not 0 < quantile < 1:
        raise ValueError(f"quantile: must be between 0 and 1, got {quantile}")
    metrics = require("sklearn.metrics")
    threshold = validation.double().quantile(quantile).item()
    truth = [0] * len(normal) + [1] * len(anomalous)
    both = torch.cat([normal, anomalous]).double().numpy()
    false_positive, true_positive, _ = metrics.roc_curve(truth, both)
    return Detection(
        normal,
        anomalous,
        threshold,
        quantile,
        false_alarms=(normal > threshold).double().mean().item(),
        found=(anomalous > threshold).double().mean().item(),
        auc=float(metrics.roc_auc_score(truth, both)),
        false_positive_rate=torch.from_numpy(false_positive),
        true_positive_rate=torch.from_numpy(true_positive),
    )
