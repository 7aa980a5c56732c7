"""How good a model is: the evidence lower bound and its two terms, in nats per image and in bits per dimension."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from .data import Images, Split
from .models.vlae import VLAE


class Evaluation(NamedTuple):
    """Means over a split: `elbo = -(reconstruction + kl)`, all three in nats per image.

    kl is the Monte Carlo estimate log q(z|x) - log p(z) under the model's own prior, one z per image.
    """

    elbo: float
    reconstruction: float
    kl: float
    bits_per_dim: float
    images: int

    def __str__(self) -> str:
        return (
            f"ELBO {self.elbo:.2f} = -(reconstruction {self.reconstruction:.2f} + KL {self.kl:.2f}) nats/image, "
            f"at most {self.bits_per_dim:.4f} bits/dim ({self.images:,} images)"
        )


def bits_per_dim(nats_per_image: float, dims: int) -> float:
    """Nats per image -> bits per pixel and channel: nats / (dims ln 2)."""
    return nats_per_image / (dims * math.log(2))


@torch.no_grad()
def evaluate(model: VLAE, images: Images, split: Split = "test", *, batch_size: int = 256, seed: int = 0) -> Evaluation:
    """The mean ELBO of `split`. The seed decides binarization and z.

    The caller's random state and the model's mode are kept, an exception or not.
    """
    device = next(model.parameters()).device
    was_training = model.training
    sums, count = torch.zeros(2, dtype=torch.float64), 0
    model.eval()
    try:
        with torch.random.fork_rng(devices=_cuda_devices(device)):  # reparameterize draws from the global generators
            torch.manual_seed(seed)
            order = torch.Generator().manual_seed(seed)
            batches: Iterable[tuple[Tensor, Tensor | None]] = (
                images.labelled_batches(split, batch_size, generator=order)
                if model.n_classes
                else ((x, None) for x in images.batches(split, batch_size, generator=order))
            )
            for x, labels in batches:
                x = x.to(device)
                terms = model.loss_terms(x, labels)
                sums += torch.stack([terms.reconstruction.sum(), terms.kl.sum()]).double().cpu()
                count += len(x)
    finally:
        model.train(was_training)
    reconstruction, kl = (sums / count).tolist()
    loss = reconstruction + kl
    return Evaluation(-loss, reconstruction, kl, bits_per_dim(loss, images.dims), count)


def _cuda_devices(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []
