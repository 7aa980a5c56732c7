"""Images from damaged ones: the lower part drawn to fit the upper one, and noise taken out."""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from .._extras import require
from ..models.mode import in_evaluation
from ..models.vlae import VLAE, loss_terms
from .decompression import decompress


@in_evaluation
@torch.no_grad()
def complete(
    model: VLAE,
    x: Tensor,
    rows: int,
    *,
    draws: int = 3,
    rounds: int = 8,
    candidates: int = 8,
    labels: Tensor | None = None,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> Tensor:
    """Images ``[B, draws, C, H, W]`` that keep the first `rows` rows of x, drawn from p(x | those rows).

    z is not known, so z and the rest of the image are drawn in turn (a Gibbs sampler): the rest given z and the known
    rows, which is exact since they come first in the decoder's order; z given the whole image, by resampling one of
    `candidates` draws from q(z|x) by their importance weights, which is exact as they become many.

    draws: completions of an image. rounds: turns of z and image after the first.

    Source: Rezende et al. 2014, arXiv 1401.4082, appendix F (without the weights).
    """
    height = model.decoder.image_size[0]
    if not 0 < rows < height:
        raise ValueError(f"complete: rows must be from 1 to {height - 1}, got {rows}")
    for name, value in (("draws", draws), ("candidates", candidates)):
        if value < 1:
            raise ValueError(f"complete: {name} must be at least 1, got {value}")
    if rounds < 0:
        raise ValueError(f"complete: rounds must not be negative, got {rounds}")
    mask = torch.zeros_like(x[:1], dtype=torch.bool)
    mask[:, :, :rows] = True
    each = None if labels is None else labels.repeat_interleave(draws, 0)
    values = x.repeat_interleave(draws, 0)
    sampler = model.sampler()
    z = model.sample_prior(len(values), generator)
    steps = require("tqdm").trange(rounds + 1, desc="complete", file=sys.stderr, disable=not progress, leave=False)
    for step in steps:
        if step:
            z = _resample(model, values, each, candidates, generator)
        values = sampler.sample(model.condition(z, each), generator=generator, known=(mask, values))
    return model.likelihood.clip(values).unflatten(0, (len(x), draws))


@in_evaluation
@torch.no_grad()
def denoise(
    model: VLAE,
    noisy: Tensor,
    *,
    draws: int = 16,
    labels: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Images ``[B, draws, C, H, W]``: z ~ q(z | noisy), then x ~ p(x | z). Their mean over the draws has less noise.

    draws: of an image.

    The code of a model that never saw noise takes some of it for content; a model trained on noisy images knows better.
    """
    if draws < 1:
        raise ValueError(f"denoise: draws must be at least 1, got {draws}")
    return decompress(model, noisy, draws, labels=labels, generator=generator)


def _resample(
    model: VLAE, x: Tensor, labels: Tensor | None, candidates: int, generator: torch.Generator | None
) -> Tensor:
    """One z per image from p(z|x), approximately: a draw from q(z|x), chosen by its weight p(x|z) p(z) / q(z|x)."""
    each = x.repeat_interleave(candidates, 0)
    theirs = None if labels is None else labels.repeat_interleave(candidates, 0)
    z, mu, logvar = model.posterior_sample(each, theirs, generator)
    params = model.decoder(each, model.condition(z, theirs))
    terms = loss_terms(params, each, mu, logvar, z, model.log_prior(z), model.likelihood)
    weights = -(terms.reconstruction + terms.kl).double().unflatten(0, (len(x), candidates))
    chosen = weights.softmax(1).multinomial(1, generator=generator)[:, 0]
    return z.unflatten(0, (len(x), candidates))[torch.arange(len(x), device=z.device), chosen]
