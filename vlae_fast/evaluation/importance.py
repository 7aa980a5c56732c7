"""The importance-weighted bound of Burda et al. 2016, arXiv 1509.00519, eq. 8: what papers report as NLL."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .._extras import progress_bar
from ..data import Images, Source, Split, for_split
from ..models.vlae import VLAE
from .elbo import batches, bits_per_dim, repeatable, subset


class ImportanceBound(NamedTuple):
    """The result of `importance_bound`: what papers report as NLL.

    nll: mean over images of ``-log mean_k w_k``, nats per image, at least ``-log p(x)`` in expectation.

    samples: draws of z an image. bits_per_dim: of nll. error: standard error of nll over images. images: how many
    of the `total` images of the split are in it.
    """

    nll: float
    error: float
    bits_per_dim: float
    samples: int
    images: int
    total: int

    def __str__(self) -> str:
        some = "" if self.images == self.total else f" of {self.total:,}"
        return (
            f"NLL at most {self.nll:.2f} +- {self.error:.2f} nats/image, {self.bits_per_dim:.4f} bits/dim, by "
            f"{self.samples:,} importance samples ({self.images:,}{some} images)"
        )


def log_mean_exp(log_weights: Tensor, dim: int = -1) -> Tensor:
    """``log mean exp`` of log_weights over the dimension dim, in float64: thousands of float32 weights would lose the
    small ones.
    """
    return log_weights.double().logsumexp(dim) - math.log(log_weights.shape[dim])


def importance_bound(
    model: VLAE,
    images: Images | Source,
    split: Split = "test",
    *,
    samples: int = 512,
    limit: int | None = None,
    batch_size: int = 256,
    seed: int = 0,
    progress: bool = False,
) -> ImportanceBound:
    """The importance-weighted bound of `split`, or of `limit` images of it drawn at random.

    samples: draws of z an image. batch_size: pairs (image, sample) per forward pass. With ``samples=1`` this is the
    ELBO of `evaluate`, draw for draw unless that has its KL in closed form. Without a z every weight is p(x): one
    sample gives the exact NLL. Ctrl-C ends the run early, with the bound of the images that are done.
    """
    images = for_split(images, model.likelihood.levels)
    total, done = len(images.pixels(split)), list[Tensor]()
    try:
        _collect(done, model, subset(images, split, limit, seed), split, samples, batch_size, seed, progress)
    except KeyboardInterrupt:
        if not done:
            raise
    nlls = torch.cat(done)
    mean, error = nlls.mean().item(), nlls.std(correction=0).item() / math.sqrt(len(nlls))
    return ImportanceBound(mean, error, bits_per_dim(mean, images.dims, model.likelihood), samples, len(nlls), total)


def importance_nll(
    model: VLAE,
    images: Images | Source,
    split: Split = "test",
    *,
    samples: int = 512,
    batch_size: int = 256,
    seed: int = 0,
    progress: bool = False,
) -> Tensor:
    """``-log mean_k p(x|z_k) p(z_k) / q(z_k|x)`` of every image in order, ``[N]`` in nats, float64 on the CPU.

    samples: draws z_k an image.
    """
    done: list[Tensor] = []
    _collect(done, model, for_split(images, model.likelihood.levels), split, samples, batch_size, seed, progress)
    return torch.cat(done)


@torch.no_grad()
def _collect(
    done: list[Tensor],
    model: VLAE,
    images: Images,
    split: Split,
    samples: int,
    batch_size: int,
    seed: int,
    progress: bool,
) -> None:
    """Appends the bounds of some images at a time, so that what is done outlives an interruption."""
    for name, value in (("samples", samples), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name}: must be at least 1, got {value}")
    at_once = max(1, batch_size // samples)
    chunks = [min(batch_size, samples - start) for start in range(0, samples, batch_size)]
    bar = progress_bar(progress, desc=f"{samples} samples", total=len(images.pixels(split)), unit=" images")
    with bar, repeatable(model, seed):
        for x, labels in batches(model, images, split, at_once, seed):
            weights = [_log_weights(model, x, labels, chunk) for chunk in chunks]
            done.append(-log_mean_exp(torch.cat(weights, 1)))
            bar.update(len(x))


def _log_weights(model: VLAE, x: Tensor, labels: Tensor | None, samples: int) -> Tensor:
    """``log p(x|z_k) + log p(z_k) - log q(z_k|x)``, ``[B, samples]``, float64 on the CPU."""
    repeated = None if labels is None else labels.repeat_interleave(samples, 0)
    terms = model.loss_terms(x.repeat_interleave(samples, 0), repeated, closed_form=False)
    return -(terms.reconstruction.double() + terms.kl.double()).cpu().unflatten(0, (len(x), samples))
