"""The objective of training, and one update by its gradient."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..data.corruption import check_amount, corrupt
from ..models.objectives import SoftFreeBits, free_bits, iwae_bound, negative_elbo
from ..models.vlae import VLAE, LossTerms
from .settings import Settings


class Batch(NamedTuple):
    """Images ``[B, C, H, W]`` and, for a class-conditional model, labels ``[B]``."""

    x: Tensor
    labels: Tensor | None = None


class Objective:
    """The loss of a batch, in nats per image, by the settings of a run; keeps the weight that soft free bits steer."""

    def __init__(self, settings: Settings, levels: int) -> None:
        check_amount("denoise", settings.denoise, levels)
        self.settings, self.levels = settings, levels
        self.soft = SoftFreeBits(settings.soft_free_bits * math.log(2)) if settings.soft_free_bits else None

    def weight(self, scheduled: float) -> float:
        """The weight of the KL: the schedule's, unless soft free bits steer it."""
        return scheduled if self.soft is None else self.soft.gamma

    def __call__(self, terms: LossTerms, kl_weight: float) -> Tensor:
        """terms: of K draws of z an image, ``[K * B]`` each, the first draw of every image first."""
        settings = self.settings
        if settings.objective == "iwae":
            log_weights = -(terms.reconstruction + kl_weight * terms.kl).unflatten(0, (settings.samples, -1))
            return -iwae_bound(log_weights).mean()
        if self.soft is not None:
            return self.soft(terms)
        if settings.free_bits:
            return free_bits(terms, settings.free_bits * math.log(2), kl_weight)
        return negative_elbo(terms, kl_weight)

    def terms(self, model: VLAE, batch: Batch) -> LossTerms:
        """Terms for `samples` draws of z an image; with `denoise` only the decoder sees clean images."""
        x, labels = batch
        seen = corrupt(x, self.settings.denoise, levels=self.levels) if self.settings.denoise else None
        if (n := self.settings.samples) > 1:
            x, seen = x.repeat(n, 1, 1, 1), None if seen is None else seen.repeat(n, 1, 1, 1)
            labels = None if labels is None else labels.repeat(n)
        # importance weights are of the draw; with its KL in closed form they would bound nothing
        return model.loss_terms(x, labels, seen=seen, closed_form=self.settings.objective != "iwae")


def update(
    model: VLAE, optimizer: torch.optim.Optimizer, batch: Batch, objective: Objective, kl_weight: float
) -> tuple[float, float]:
    """One update, none where the loss is not finite; returns mean reconstruction and KL before it, nats per image."""
    terms = objective.terms(model, batch)
    reconstruction, kl = torch.stack([terms.reconstruction.mean(), terms.kl.mean()]).tolist()  # one wait for a GPU
    if math.isfinite(reconstruction + kl):
        optimizer.zero_grad(set_to_none=True)
        objective(terms, kl_weight).backward()
        optimizer.step()
    return reconstruction, kl
