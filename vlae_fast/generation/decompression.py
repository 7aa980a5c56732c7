"""Images given their codes: the lossy part of an image is kept, the rest is drawn anew."""

from __future__ import annotations

import torch
from torch import Tensor

from ..models.mode import in_evaluation
from ..models.vlae import VLAE

DECOMPRESSIONS = 3


@in_evaluation
@torch.no_grad()
def decompress(
    model: VLAE,
    x: Tensor,
    times: int = DECOMPRESSIONS,
    *,
    labels: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Images [B, times, C, H, W] drawn from p(x | z), one z ~ q(z | x) per draw; z keeps the lossy code of x.

    They are in [0, 1], whatever the likelihood.

    x: ``[B, C, H, W]``. times: draws of each.
    """
    if not model.latent_dim:
        raise ValueError("decompress: model must have a z, got one with latent_dim 0, a PixelCNN by itself")
    if times < 1:
        raise ValueError(f"times: must be at least 1, got {times}")
    each = None if labels is None else labels.repeat_interleave(times, 0)
    z, _, _ = model.posterior_sample(x.repeat_interleave(times, 0), each, generator)
    drawn = model.sampler().sample(model.condition(z, each), generator=generator)
    return model.likelihood.clip(drawn).unflatten(0, (len(x), times))
