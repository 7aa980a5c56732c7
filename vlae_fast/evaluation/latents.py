"""The use of the code: KL per latent dimension, active units."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..data import Images, Source, Split
from ..models.vlae import VLAE
from .elbo import batches, in_turn, of_all, repeatable

ACTIVE = 0.01  # variance of a posterior mean, the threshold of Burda et al. 2016, arXiv 1509.00519, section 5.2


class Codes(NamedTuple):
    """The codes of every image, ``[N, D]`` each, float64 on the CPU.

    mu, logvar: with q(z|x) = N(z; mu, exp(logvar)) at z. z: a draw from q. kl: the share of every dimension in the KL
    of `evaluate`, nats, which the shares add up to. Their mean over the data is the KL per dimension; the share of one
    draw, which it is where posterior or prior is a flow, may be negative. mean, again: E[z|x] without bias and with
    independent errors: mu twice where the posterior is Gaussian, else two draws, since the mu of a flow depends on the
    draw.
    """

    mu: Tensor
    logvar: Tensor
    z: Tensor
    kl: Tensor
    mean: Tensor
    again: Tensor


@torch.no_grad()
def encode(
    model: VLAE,
    images: Images | Source,
    split: Split = "test",
    *,
    batch_size: int = 256,
    seed: int = 0,
    shared: bool = False,
) -> Codes:
    """The codes of a split. The seed decides binarization and z. shared: as in `per_image`.

    Raises:
        ValueError: the model has no z.
    """
    if not model.latent_dim:
        raise ValueError("encode: model must have a z, got one with latent_dim 0, a PixelCNN by itself")
    found: dict[int, tuple[Tensor, ...]] = {}
    with repeatable(model, seed):
        every = batches(model, images, split, batch_size, seed)
        for number, x, labels in in_turn(model, every, shared, draws=1 if model.posterior is None else 2):
            z, mu, logvar = model.posterior_sample(x, labels)
            means = (mu, mu) if model.posterior is None else (z, model.posterior_sample(x, labels)[0])
            columns = (mu, logvar, z, model.kl_per_dim(z, mu, logvar), *means)
            found[number] = tuple(column.double().cpu() for column in columns)
    return Codes(*(torch.cat(rows) for rows in zip(*of_all(found, shared), strict=True)))


def active_units(mean: Tensor, again: Tensor | None = None) -> int:
    """How many dimensions have a posterior mean that varies over the data: ``Var_x E[z_d | x] > 0.01``.

    mean: ``[N, D]``. again: a second estimate with independent errors; the covariance of the two is free of them.
    """
    again = mean if again is None else again
    if mean.dim() != 2 or len(mean) < 2 or again.shape != mean.shape:
        raise ValueError(f"mean: must be [N, D] with N >= 2, got {tuple(mean.shape)} and {tuple(again.shape)}")
    covariance = ((mean - mean.mean(0)) * (again - again.mean(0))).sum(0) / (len(mean) - 1)
    return int((covariance > ACTIVE).sum())
