"""Images by number: image i is a function of the model, the seed and i, whoever draws it and what beside it."""

from __future__ import annotations

import torch
from torch import Tensor

from ..models.mode import in_evaluation
from ..models.vlae import VLAE
from ..sampling import FactorizedSampler, PixelCNNSampler
from ..sampling.numbered import numbered_noise
from .decompression import mean_images

_CODE, _PIXELS = 0, 1  # streams of an image


@in_evaluation
@torch.no_grad()
def numbered_images(
    model: VLAE,
    first: int,
    n: int,
    *,
    seed: int = 0,
    labels: Tensor | None = None,
    temperature: float = 1.0,
    mean: bool = False,
    sampler: PixelCNNSampler | FactorizedSampler | None = None,
) -> Tensor:
    """The images of the numbers first to first + n - 1, ``[n, C, H, W]``: z from the prior, then the pixels.

    Noise comes from the CPU, so that it is that of every device. Images drawn in other batches differ where rounding in
    the inverse of a flow does.

    Args:
        labels: ``[n]`` of a class-conditional model. temperature: as in `PixelCNNSampler.sample`.
        mean: E[x | z] in place of a draw, by `mean_images`, whose noise is the seed's for all images.
        sampler: of the model, where there is one already.
    """
    like, likelihood = next(model.decoder.parameters()), model.likelihood
    eps = numbered_noise(seed, first, n, (model.latent_dim,), like.dtype, normal=True, stream=_CODE)
    given = model.condition(model.sample_prior(n, noise=eps.to(like.device)), labels)
    sampler = model.sampler() if sampler is None else sampler
    if mean:
        same = torch.Generator(like.device).manual_seed(seed)
        return mean_images(model, given, sampler=sampler, generator=same)
    shape, normal = (likelihood.noises, *model.decoder.image_size), likelihood.emit.noise_is_normal
    noise = numbered_noise(seed, first, n, shape, like.dtype, normal=normal, stream=_PIXELS)
    return sampler.sample(given, noise.to(like.device), temperature=temperature)
