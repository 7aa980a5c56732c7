"""The importance-weighted bound of Burda et al. 2016, arXiv 1509.00519, eq. 8: what papers report as NLL."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import processes
from .._extras import progress_bar
from ..data import Images, Source, Split, for_split
from ..layers.hooked_weight import only_computes
from ..models.decoders import Decoder
from ..models.digest import digest_of
from ..models.objectives import LossTerms, loss_terms
from ..models.posterior import PosteriorSample
from ..models.shapes import each
from ..models.vlae import VLAE
from .elbo import batches, bits_per_dim, pass_over, repeatable, subset
from .records import Records, mean_and_error

_PAIRS = 128  # of an image and a draw at a time, on a CPU: what a layer makes of them stays in its caches


class ImportanceBound(NamedTuple):
    """The result of `importance_bound`: what papers report as NLL.

    nll: mean over images of ``-log mean_k w_k``, nats per image, at least ``-log p(x)`` in expectation.

    samples: draws of z an image. bits_per_dim: of nll. error: standard error of nll over images. images: how many
    of the `total` images of the split are in it. autocast: the decoder's products were in bfloat16.
    """

    nll: float
    error: float
    bits_per_dim: float
    samples: int
    images: int
    total: int
    autocast: bool = False

    def __str__(self) -> str:
        some = "" if self.images == self.total else f" of {self.total:,}"
        return (
            f"NLL at most {self.nll:.2f} +- {self.error:.2f} nats/image, {self.bits_per_dim:.4f} bits/dim, by "
            f"{self.samples:,} importance samples ({self.images:,}{some} images)"
            + (", the decoder's products in bfloat16" if self.autocast else "")
        )


class _Draws(NamedTuple):
    """How the bound is taken: samples of an image, pairs at once, the seed, the decoder's products."""

    samples: int
    batch_size: int
    seed: int
    autocast: bool


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
    shared: bool = False,
    keep: str | Path | None = None,
    autocast: bool = False,
) -> ImportanceBound:
    """The importance-weighted bound of `split`, or of `limit` images of it drawn at random.

    samples: draws of z an image. batch_size: pairs (image, sample) per forward pass. With ``samples=1`` this is the
    ELBO of `evaluate`, draw for draw unless that has its KL in closed form. Without a z every weight is p(x): one
    sample gives the exact NLL. Ctrl-C ends the run of one process early, with the bound of the images that are done.
    shared, keep, autocast: as in `importance_nll`.
    """
    images = for_split(images, model.likelihood.levels)
    total, few = len(images.pixels(split)), subset(images, split, limit, seed)
    draws = _Draws(samples, batch_size, seed, autocast)
    records = _records(model, few, split, draws, shared, keep)
    try:
        _collect(records, model, few, split, draws, progress)
    except KeyboardInterrupt:
        if not records.nats or records.count > 1:
            raise
    nlls = records.all()
    mean, error = mean_and_error(nlls)
    bits = bits_per_dim(mean, images.dims, model.likelihood)
    return ImportanceBound(mean, error, bits, samples, len(nlls), total, autocast)


def importance_nll(
    model: VLAE,
    images: Images | Source,
    split: Split = "test",
    *,
    samples: int = 512,
    batch_size: int = 256,
    seed: int = 0,
    progress: bool = False,
    shared: bool = False,
    keep: str | Path | None = None,
    autocast: bool = False,
) -> Tensor:
    """``-log mean_k p(x|z_k) p(z_k) / q(z_k|x)`` of every image in order, ``[N]`` in nats, float64 on the CPU.

    Args:
        samples: draws z_k an image.
        progress: a bar, with the mean of the images that this process knows and its standard error.
        shared: of several processes (`vlae_fast.processes`), all of which call this: each takes images in turn, and all
            get the figures of every image, those of one process to the last bit.
        keep: a folder for the figures, each written when it is known. The same call, by any number of processes, goes
            on where another one ended.
        autocast: the decoder's products in bfloat16, by `torch.autocast`: on a CPU with AMX it takes a third of the
            time, and an image's figure is off by hundredths of a nat. All else stays float32.

    Raises:
        ValueError: `keep` has figures of another model, of other images or settings. With `autocast`, the terms of a
            subclass or of a model with hooks, whose decoder is not called by itself.
    """
    images = for_split(images, model.likelihood.levels)
    draws = _Draws(samples, batch_size, seed, autocast)
    records = _records(model, images, split, draws, shared, keep)
    _collect(records, model, images, split, draws, progress)
    return records.all()


def _records(
    model: VLAE,
    images: Images,
    split: Split,
    draws: _Draws,
    shared: bool,
    keep: str | Path | None,
) -> Records:
    for name, value in (("samples", draws.samples), ("batch_size", draws.batch_size)):
        if value < 1:
            raise ValueError(f"{name}: must be at least 1, got {value}")
    if draws.autocast and not _shares(model):
        raise ValueError(f"autocast: must be False of a subclass or a model with hooks, got {type(model).__name__}")
    what: dict[str, Any] = {}
    if keep is not None or processes.place(shared)[0] > 1:
        pixels = {"pixels": images.pixels(split)}
        labels = {} if images.labels is None else {"labels": images.labels[split]}
        what = {name: getattr(draws, name) for name in ("samples", "batch_size", "seed")}
        what |= {"binarization": images.binarization}
        what |= {"autocast": draws.autocast or None}  # folders from before there was a choice say nothing of it
        what |= {"model": digest_of(model.state_dict()), "data": digest_of(pixels | labels)}
    return Records(what, None if keep is None else Path(keep), shared=shared)


@torch.no_grad()
def _collect(
    records: Records,
    model: VLAE,
    images: Images,
    split: Split,
    draws: _Draws,
    progress: bool,
) -> None:
    """Adds the bounds of some images at a time, so that what is done outlives an interruption.

    What is known, or another process's, is passed over with its random numbers.
    """
    samples, batch_size, seed, autocast = draws
    at_once = max(1, batch_size // samples)
    chunks = [min(batch_size, samples - start) for start in range(0, samples, batch_size)]
    bar = progress_bar(progress, desc=f"{samples} samples", total=len(images.pixels(split)), unit=" images")
    first, turn = 0, 0
    with bar, repeatable(model, seed):
        for x, labels in batches(model, images, split, at_once, seed):
            known = records.before.issuperset(range(first, first + len(x)))
            if not known and turn % records.count == records.rank:
                weights = [_log_weights(model, x, labels, chunk, autocast) for chunk in chunks]
                records.add(first, -log_mean_exp(torch.cat(weights, 1)))
                if progress:
                    bar.set_postfix_str("NLL at most {:.2f} +- {:.2f}".format(*records.mean()), refresh=False)
            else:
                for chunk in chunks:
                    pass_over(model, len(x) * chunk)
            first, turn = first + len(x), turn + (not known)
            bar.update(len(x))


def _log_weights(model: VLAE, x: Tensor, labels: Tensor | None, samples: int, autocast: bool = False) -> Tensor:
    """``log p(x|z_k) + log p(z_k) - log q(z_k|x)``, ``[B, samples]``, float64 on the CPU.

    As by ``model.loss_terms`` of every image `samples` times, but for what depends on x alone, which is computed once
    where the model and its decoder compute what their classes do.
    """
    if not _shares(model):
        repeated = None if labels is None else each(labels, samples)
        return _by_image(model.loss_terms(each(x, samples), repeated, closed_form=False), samples)
    drawn = model.posterior_sample(x, labels, draws=samples)
    at_once = max(1, _PAIRS // len(x)) if x.device.type == "cpu" else samples
    columns = (of_draws.unflatten(0, (len(x), samples)).split(at_once, 1) for of_draws in drawn)
    parts = [_of_draws(model, x, labels, PosteriorSample(*part), autocast) for part in zip(*columns, strict=True)]
    return torch.cat(parts, 1)


def _shares(model: VLAE) -> bool:
    """False of a subclass, whose terms may be others, and where a hook looks on or the decoder is none of ours."""
    decoder = model.decoder
    ours = isinstance(decoder, Decoder) and type(decoder).forward is Decoder.forward
    plain = only_computes(model, VLAE) and "loss_terms" not in vars(model) and "posterior_sample" not in vars(model)
    return plain and ours and only_computes(decoder, type(decoder))


def _of_draws(model: VLAE, x: Tensor, labels: Tensor | None, drawn: PosteriorSample, autocast: bool) -> Tensor:
    """The log weights ``[B, n]`` of n draws of every image: z, mu and logvar are ``[B, n, D]``."""
    n = drawn.z.shape[1]
    z, mu, logvar = (of_draws.flatten(0, 1) for of_draws in drawn)
    condition = model.condition(z, None if labels is None else each(labels, n))
    with torch.autocast(x.device.type, torch.bfloat16, enabled=autocast):
        params = model.decoder.of_draws(x, condition, n).to(z.dtype)
    return _by_image(loss_terms(params, each(x, n), mu, logvar, z, model.log_prior(z), model.likelihood), n)


def _by_image(terms: LossTerms, draws: int) -> Tensor:
    """The log weights ``[B, draws]`` of terms ``[B draws]``."""
    return -(terms.reconstruction.double() + terms.kl.double()).cpu().unflatten(0, (-1, draws))
