"""Images given their codes: the lossy part of an image is kept, the rest is drawn anew or averaged."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from ..models.decoders.factorized import FactorizedDecoder
from ..models.mode import in_evaluation
from ..models.vlae import VLAE
from ..sampling import FactorizedSampler, PixelCNNSampler
from ..sampling.emit import make_noise

DECOMPRESSIONS = 3
MEAN_OF = 16  # draws that a mean is of, where it has no closed form


def shows_means(model: VLAE, mean: bool | None = None) -> bool:
    """`mean` itself; where it is None, True for decoders without a pixel loop, ``mlp`` and ``deconv``.

    The pixels of those are independent given z, so that a draw is the mean image with noise on top.
    """
    return not model.decoder.autoregressive if mean is None else mean


@in_evaluation
@torch.no_grad()
def mean_images(
    model: VLAE,
    given: Tensor | None,
    *,
    draws: int = MEAN_OF,
    sampler: PixelCNNSampler | FactorizedSampler | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``E[x | z]``, ``[B, C, H, W]``: exact where pixels are independent given z, else the mean of `draws` draws.

    given: ``model.condition(z, labels)``. sampler: of the model, where there is one already. All images of a draw
    have the same noise, so that they differ by z alone.
    """
    if draws < 1:
        raise ValueError(f"mean_images: draws must be at least 1, got {draws}")
    if given is not None and not model.decoder.autoregressive:
        return model.likelihood.clip(model.likelihood.mean(cast(FactorizedDecoder, model.decoder).decode(given)))
    sampler = model.sampler() if sampler is None else sampler
    n, like = 1 if given is None else len(given), next(model.decoder.parameters())
    shape = (model.likelihood.channels, *model.decoder.image_size)
    total = torch.zeros((), dtype=like.dtype, device=like.device)
    for _ in range(draws):
        noise = make_noise(model.likelihood.emit, 1, shape, like, generator)
        total = total + model.likelihood.clip(sampler.sample(cast(Tensor, given), noise=noise.expand(n, -1, -1, -1)))
    return total / draws


@in_evaluation
@torch.no_grad()
def decompress(
    model: VLAE,
    x: Tensor,
    times: int = DECOMPRESSIONS,
    *,
    mean: bool | None = None,
    labels: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Images ``[B, times, C, H, W]`` given z ~ q(z | x), one z for each; z keeps the lossy code of x.

    They are in [0, 1], whatever the likelihood.

    x: ``[B, C, H, W]``. times: images of each. mean: False for draws from p(x | z), True for means E[x | z]
    (`mean_images`); None for means where the decoder has no pixel loop, draws otherwise.
    """
    if not model.latent_dim:
        raise ValueError("decompress: model must have a z, got one with latent_dim 0, a PixelCNN by itself")
    if times < 1:
        raise ValueError(f"times: must be at least 1, got {times}")
    each = None if labels is None else labels.repeat_interleave(times, 0)
    z, _, _ = model.posterior_sample(x.repeat_interleave(times, 0), each, generator)
    given = model.condition(z, each)
    if shows_means(model, mean):
        shown = mean_images(model, given, generator=generator)
    else:
        shown = model.sampler().sample(given, generator=generator)
    return model.likelihood.clip(shown).unflatten(0, (len(x), times))
