"""Images from damaged ones: any pixels drawn to fit the known ones, and noise taken out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, overload

import torch
from torch import Tensor

from .._extras import progress_bar
from ..models.mode import in_evaluation
from ..models.posterior import gaussian_log_prob
from ..models.vlae import VLAE
from ..sampling.known import fits
from .decompression import decompress
from .particles import Completions, check_particles
from .proposals import particles_of

METHODS = ("gibbs", "importance")
_ROUNDS = {"gibbs": 8, "importance": 4}


@overload
def complete(
    model: VLAE, x: Tensor, known: int | Tensor, *, method: Literal["gibbs"] = ..., draws: int = ...,
    rounds: int | None = ..., candidates: int = ..., particles: int = ..., threshold: float = ...,
    labels: Tensor | None = ..., generator: torch.Generator | None = ..., progress: bool = ...,
) -> Tensor: ...  # fmt: skip


@overload
def complete(
    model: VLAE, x: Tensor, known: int | Tensor, *, method: Literal["importance"], draws: int = ...,
    rounds: int | None = ..., candidates: int = ..., particles: int = ..., threshold: float = ...,
    labels: Tensor | None = ..., generator: torch.Generator | None = ..., progress: bool = ...,
) -> Completions: ...  # fmt: skip


@in_evaluation
@torch.no_grad()
def complete(
    model: VLAE,
    x: Tensor,
    known: int | Tensor,
    *,
    method: str = "gibbs",
    draws: int = 3,
    rounds: int | None = None,
    candidates: int = 8,
    particles: int = 64,
    threshold: float = 0.5,
    labels: Tensor | None = None,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> Tensor | Completions:
    """Images that keep the known pixels of x ``[B, C, H, W]``, drawn from p(x | those pixels).

    ``gibbs`` gives images ``[B, draws, C, H, W]``. z is not known, so z and the rest of the image are drawn in turn.
    The rest given z and the known pixels is exact where those come first in the decoder's order. z given the whole
    image is one of `candidates` draws from q(z|x), chosen by their importance weights, which is exact as they become
    many. A model without z needs one turn, and is exact.

    ``importance`` takes any mask and gives `Completions`: `particles` weighted images of each x by `weighted_samples`,
    with ``.draw(n)``, ``.mean()``, and an estimate of log p(known pixels) in nats. z is from a mixture of the prior and
    of Gaussians q(z | guess), with the weight p(z) / mixture(z). The guesses are images that a round before completed.

    Args:
        known: the first so many rows, or a boolean mask that is broadcastable to x.
        method: ``gibbs`` or ``importance``.
        draws: of gibbs, completions of an image. candidates: of gibbs.
        rounds: of gibbs, turns of z and image after the first, 8 where None. Of importance, times that guesses are made
            anew, 4 where None; 0: z from the prior alone.
        particles, threshold: of importance, as in `weighted_samples`. An image costs rounds + 1 passes over so many
            images, and up to H more.

    Raises:
        ValueError: an argument breaks a rule above, or gibbs is asked for where known pixels come after unknown ones.

    Source: Rezende et al. 2014, arXiv 1401.4082, appendix F (without the weights); Cappé et al. 2004, Population Monte
    Carlo, Journal of Computational and Graphical Statistics 13 (4).
    """
    mask = _mask(model, x, known)
    rounds = _check(method, draws, rounds, candidates, particles, threshold)
    if method == "gibbs":
        return _gibbs(model, x, mask, draws, rounds, candidates, labels, generator, progress)
    sampler, found = model.sampler(), []
    for i in _steps(len(x), progress):
        one = None if labels is None else labels[i : i + 1].expand(particles)
        found.append(particles_of(model, sampler, (mask[i], x[i]), particles, threshold, rounds, one, generator))
    result = Completions(*(torch.cat(part) for part in zip(*found, strict=True)))
    return result._replace(images=model.likelihood.clip(result.images))


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

    What is taken for noise depends on the training. The code of a model that was trained without noise (the setting
    `denoise` of `training.train` at 0) takes some of the noise for content. A model that was trained to encode noisy
    images and decode clean ones leaves it out.
    """
    if draws < 1:
        raise ValueError(f"denoise: draws must be at least 1, got {draws}")
    return decompress(model, noisy, draws, mean=False, labels=labels, generator=generator)


def _check(method: str, draws: int, rounds: int | None, candidates: int, particles: int, threshold: float) -> int:
    """The number of rounds; ValueError for an argument that is out of range."""
    if method not in METHODS:
        raise ValueError(f"complete: method must be one of {', '.join(METHODS)}, got {method!r}")
    for name, value in (("draws", draws), ("candidates", candidates)):
        if value < 1:
            raise ValueError(f"complete: {name} must be at least 1, got {value}")
    check_particles("complete", particles, threshold)
    rounds = _ROUNDS[method] if rounds is None else rounds
    if rounds < 0:
        raise ValueError(f"complete: rounds must not be negative, got {rounds}")
    return rounds


def _mask(model: VLAE, x: Tensor, known: int | Tensor) -> Tensor:
    """The mask of known pixels, boolean, in the shape of x."""
    expected = (model.decoder.input_dim, *model.decoder.image_size)
    if x.dim() != 4 or tuple(x.shape[1:]) != expected:
        raise ValueError(f"complete: x must be [B, {', '.join(map(str, expected))}], got {tuple(x.shape)}")
    if isinstance(known, Tensor):
        if known.dtype != torch.bool:
            raise ValueError(f"complete: known must be a number of rows or a boolean mask, got {known.dtype}")
        try:
            return known.to(x.device).expand(x.shape)
        except RuntimeError:
            rule = f"known must broadcast to x, {tuple(x.shape)}"
            raise ValueError(f"complete: {rule}, got {tuple(known.shape)}") from None
    height = expected[1]
    if not 0 < known < height:
        raise ValueError(f"complete: rows must be from 1 to {height - 1}, got {known}")
    rows = torch.arange(height, device=x.device) < known
    return rows[:, None].expand(x.shape)


def _steps(n: int, progress: bool) -> Iterator[int]:
    with progress_bar(progress, desc="complete", total=n, leave=False) as bar:
        for step in range(n):
            yield step
            bar.update()


def _gibbs(
    model: VLAE,
    x: Tensor,
    mask: Tensor,
    draws: int,
    rounds: int,
    candidates: int,
    labels: Tensor | None,
    generator: torch.Generator | None,
    progress: bool,
) -> Tensor:
    sampler = model.sampler()
    if not fits(mask, model.likelihood.emit, sampler.offsets_seen, in_turn=sampler.in_turn):
        rule = "known must come before all unknown pixels that the decoder sees, for method 'gibbs'"
        raise ValueError(f"complete: {rule}, got a mask where some come after: take method='importance'")
    each = None if labels is None else labels.repeat_interleave(draws, 0)
    values, mask = x.repeat_interleave(draws, 0), mask.repeat_interleave(draws, 0)
    z = model.sample_prior(len(values), generator)
    for step in _steps(rounds + 1 if model.latent_dim else 1, progress):
        if step:
            z = _resample(model, values, each, candidates, generator)
        values = sampler.propose(model.condition(z, each), None, generator, (mask, values)).images
    return model.likelihood.clip(values).unflatten(0, (len(x), draws))


def _resample(
    model: VLAE, x: Tensor, labels: Tensor | None, candidates: int, generator: torch.Generator | None
) -> Tensor:
    """One z per image from p(z|x), approximately: a draw from q(z|x), chosen by its weight p(x|z) p(z) / q(z|x)."""
    each = x.repeat_interleave(candidates, 0)
    theirs = None if labels is None else labels.repeat_interleave(candidates, 0)
    z, mu, logvar = model.posterior_sample(each, theirs, generator)
    params = model.decoder(each, model.condition(z, theirs))
    log_q = gaussian_log_prob(z, mu, logvar).sum(1)  # of this draw: a closed form of the KL would be no weight
    weights = model.likelihood.log_prob(params, each).double() + model.log_prior(z).double() - log_q.double()
    chosen = weights.unflatten(0, (len(x), candidates)).softmax(1).multinomial(1, generator=generator)[:, 0]
    return z.unflatten(0, (len(x), candidates))[torch.arange(len(x), device=z.device), chosen]
