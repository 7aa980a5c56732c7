"""The evidence lower bound and its two terms, in nats per image and in bits per dimension."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from .. import processes
from ..data import Images, Source, Split, for_split
from ..models.likelihood_base import Likelihood
from ..models.mode import evaluating
from ..models.vlae import VLAE, LossTerms

Found = TypeVar("Found")


class Evaluation(NamedTuple):
    """Means over a split: `elbo = -(reconstruction + kl)`, all three in nats per image.

    kl is in closed form where posterior and prior are Gaussian, else the Monte Carlo estimate log q(z|x) - log p(z)
    under the model's own prior, one z per image. Without a z, elbo is the mean of log p(x) itself, no bound of it.
    """

    elbo: float
    reconstruction: float
    kl: float
    bits_per_dim: float  # of the negative ELBO, as the model's `Likelihood.bits_per_dim` counts them
    images: int  # how many
    exact: bool = False  # without a z
    levels: int = 0  # at which the bits of a density are counted; 0: of no density

    def __str__(self) -> str:
        terms = f"ELBO {self.elbo:.2f} = -(reconstruction {self.reconstruction:.2f} + KL {self.kl:.2f})"
        figures = f"log p(x) {self.elbo:.2f}" if self.exact else terms
        bound = "" if self.exact else "at most "
        bits = f"{'about ' if self.levels else bound}{self.bits_per_dim:.4f} bits/dim"
        at = f" at {self.levels} levels, by a density" if self.levels else ""
        return f"{figures} nats/image, {bits}{at} ({self.images:,} images)"


class ClassRow(NamedTuple):
    """Means over the images of one class, nats per image."""

    label: int  # the class
    images: int  # how many
    reconstruction: float  # -log p(x|z)
    kl: float  # as in `Evaluation`


def bits_per_dim(nats_per_image: float, dims: int, likelihood: Likelihood | None = None) -> float:
    """Nats per image -> bits per pixel and channel: nats_per_image / (dims ln 2), more for a density.

    likelihood: the model's, whose `Likelihood.bits_per_dim` this is; None: of no density.
    """
    return (
        nats_per_image / (dims * math.log(2)) if likelihood is None else likelihood.bits_per_dim(nats_per_image, dims)
    )


def evaluate(
    model: VLAE,
    images: Images | Source,
    split: Split = "test",
    *,
    batch_size: int = 256,
    seed: int = 0,
    shared: bool = False,
) -> Evaluation:
    """The mean ELBO of `split`. The seed decides binarization and z.

    images: `Images`, or a data set, loader or tensor of one's own, all of which is evaluated: `data.from_dataset`.
    shared: as in `per_image`.

    The caller's random state and the model's mode are kept, an exception or not.
    """
    images = for_split(images, model.likelihood.levels)
    terms = per_image(model, images, split, batch_size=batch_size, seed=seed, shared=shared)
    return summary(model, terms, images.dims)


def summary(model: VLAE, terms: LossTerms, dims: int) -> Evaluation:
    """The means of what `per_image` gives for the model, of images of so many dims (pixels times channels)."""
    reconstruction, kl = terms.reconstruction.mean().item(), terms.kl.mean().item()
    loss, likelihood = reconstruction + kl, model.likelihood
    bits, levels = bits_per_dim(loss, dims, likelihood), likelihood.levels if likelihood.is_density else 0
    return Evaluation(-loss, reconstruction, kl, bits, len(terms.kl), exact=not model.latent_dim, levels=levels)


@torch.no_grad()
def per_image(
    model: VLAE,
    images: Images | Source,
    split: Split = "test",
    *,
    batch_size: int = 256,
    seed: int = 0,
    shared: bool = False,
) -> LossTerms:
    """Reconstruction and KL of every image of `split`, ``[N]`` in nats, float64 on the CPU.

    shared: of several processes (`vlae_fast.processes`), all of which call this: each takes its batches of the split,
    and all get the figures of every image, those of one process to the last bit.
    """
    rows: dict[int, Tensor] = {}
    with repeatable(model, seed):
        for number, x, labels in in_turn(model, batches(model, images, split, batch_size, seed), shared):
            rows[number] = torch.stack(list(model.loss_terms(x, labels))).double().cpu()
    return LossTerms(*torch.cat(of_all(rows, shared), 1))


def in_turn(
    model: VLAE, all_batches: Iterable[tuple[Tensor, Tensor | None]], shared: bool, draws: int = 1
) -> Iterator[tuple[int, Tensor, Tensor | None]]:
    """Number, images and labels of the batches that are this process's; the others' `draws` of z are passed over."""
    count, rank = processes.place(shared)
    for number, (x, labels) in enumerate(all_batches):
        if number % count == rank:
            yield number, x, labels
        else:
            for _ in range(draws):
                pass_over(model, len(x))


def of_all(own: dict[int, Found], shared: bool) -> list[Found]:
    """What all processes found of their batches, in the order of the numbers."""
    found = {number: of for part in processes.in_each(own) for number, of in part.items()} if shared else own
    return [found[number] for number in sorted(found)]


def pass_over(model: VLAE, images: int) -> None:
    """Draws from the global generator what the model would draw for so many images: one z each."""
    like = next(model.parameters())
    torch.randn(images, model.latent_dim, dtype=like.dtype, device=like.device)


def by_class(terms: LossTerms, labels: Tensor) -> list[ClassRow]:
    """The means of every class that occurs, in the order of the labels."""
    if labels.shape != terms.kl.shape:
        raise ValueError(f"labels: must be one per image, {tuple(terms.kl.shape)}, got {tuple(labels.shape)}")
    found = []
    for label in labels.unique().tolist():
        of_class = labels == label
        means = (term[of_class].mean().item() for term in terms)
        found.append(ClassRow(int(label), int(of_class.sum()), *means))
    return found


def drawn_rows(n: int, limit: int | None, seed: int = 0) -> Tensor:
    """The rows of n images that `subset` keeps, in order."""
    if limit is not None and limit < 1:
        raise ValueError(f"limit: must be at least 1, got {limit}")
    if limit is None or limit >= n:
        return torch.arange(n, device="cpu")
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed), device="cpu")[:limit].sort().values


def subset(images: Images, split: Split, limit: int | None, seed: int = 0) -> Images:
    """`images` with at most `limit` images in `split`, drawn at random: a file may be sorted by class."""
    pixels = images.pixels(split)
    rows = drawn_rows(len(pixels), limit, seed)
    if len(rows) == len(pixels):
        return images
    labels = None if images.labels is None else images.labels | {split: images.labels[split][rows]}
    changed: dict[str, Any] = {split: pixels[rows], "labels": labels}
    return dataclasses.replace(images, **changed)


def batches(
    model: VLAE,
    images: Images | Source,
    split: Split,
    batch_size: int,
    order: int | torch.Generator,
    *,
    shuffle: bool = False,
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Images on the model's device, with their labels where the model has classes.

    order: a generator, or its seed. shuffle: draws the order from the generator too, else it is the split's.
    """
    images, device = for_split(images, model.likelihood.levels), next(model.parameters()).device
    generator = torch.Generator().manual_seed(order) if isinstance(order, int) else order
    if model.n_classes:
        for x, labels in images.labelled_batches(split, batch_size, generator=generator, shuffle=shuffle):
            yield x.to(device), labels.to(device)
    else:
        for x in images.batches(split, batch_size, generator=generator, shuffle=shuffle):
            yield x.to(device), None


@contextlib.contextmanager
def repeatable(model: VLAE, seed: int) -> Iterator[None]:
    """Evaluation mode, global generators started at `seed`; modes and random state come back, an exception or not."""
    device = next(model.parameters()).device
    with evaluating(model), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
