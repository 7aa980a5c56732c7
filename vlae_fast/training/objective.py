"""The objective of training, and one update by its gradient."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .. import processes
from ..data.corruption import check_amount, corrupt
from ..models.objectives import SoftFreeBits, free_bits, iwae_bound, loss_terms, negative_elbo
from ..models.vlae import VLAE, LossTerms
from .settings import Settings

_OPTIMIZERS = {"adam": torch.optim.Adam, "adamax": torch.optim.Adamax}


class Batch(NamedTuple):
    """Images ``[B, C, H, W]`` and, for a class-conditional model, labels ``[B]``."""

    x: Tensor
    labels: Tensor | None = None


class Objective:
    """The loss of a batch, in nats per image, by the settings of a run; keeps the weight that soft free bits steer."""

    def __init__(self, settings: Settings, levels: int) -> None:
        check_amount("denoise", settings.denoise, levels)
        self.settings, self.levels = settings, levels
        self.kl_weight = 1.0  # of the last loss, whose gradient is to come
        self.soft = SoftFreeBits(settings.soft_free_bits * math.log(2)) if settings.soft_free_bits else None

    def weight(self, scheduled: float) -> float:
        """The weight of the KL: the schedule's, unless soft free bits steer it."""
        return scheduled if self.soft is None else self.soft.gamma

    def __call__(self, terms: LossTerms, kl_weight: float) -> Tensor:
        """terms: of K draws of z an image, ``[K * B]`` each, the first draw of every image first."""
        settings, self.kl_weight = self.settings, kl_weight
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
        return self._terms(model, batch, self._seen(batch.x))

    def shared_terms(self, model: VLAE, batch: Batch, draws: torch.Generator) -> LossTerms:
        """`terms`, of one of several processes: of the whole batch, with the gradient of this process's share alone.

        draws: what one process draws from torch's global generator. An own draw of a share would depend on N.
        """
        rows, n, like = len(batch.x), self.settings.samples, next(model.parameters())
        mine, seen = processes.share(rows), self._seen(batch.x, draws)
        noise = torch.randn(n, rows, model.latent_dim, generator=draws, dtype=like.dtype, device=like.device)[:, mine]
        own = Batch(batch.x[mine], None if batch.labels is None else batch.labels[mine])
        if len(own.x):
            terms = self._terms(model, own, None if seen is None else seen[mine], noise.flatten(0, 1), rows)
        else:  # fewer images than processes are left for the last batch of an epoch
            terms = LossTerms(batch.x.new_zeros(0), batch.x.new_zeros(0))
        parts = torch.stack(list(terms)).unflatten(1, (n, len(own.x)))
        return LossTerms(*processes.whole(parts, rows).flatten(1))

    def _seen(self, x: Tensor, draws: torch.Generator | None = None) -> Tensor | None:
        amount = self.settings.denoise
        return corrupt(x, amount, levels=self.levels, generator=draws) if amount else None

    def _terms(
        self, model: VLAE, batch: Batch, seen: Tensor | None, noise: Tensor | None = None, images: int | None = None
    ) -> LossTerms:
        """images: how many the whole batch has, if not those of this one."""
        x, labels = batch
        images = len(x) if images is None else images
        if (n := self.settings.samples) > 1:
            x, seen = x.repeat(n, 1, 1, 1), None if seen is None else seen.repeat(n, 1, 1, 1)
            labels = None if labels is None else labels.repeat(n)
        path = self.settings.path_derivative
        if self.settings.objective != "iwae":
            return model.loss_terms(x, labels, seen=seen, noise=noise, path_derivative=path)
        if not path or model.posterior is not None:
            # importance weights are of the draw; with its KL in closed form they would bound nothing
            return model.loss_terms(x, labels, seen=seen, noise=noise, closed_form=False)
        out = model(x, labels, seen=seen, **({} if noise is None else {"noise": noise}))
        scored_by = out.mu.detach(), out.logvar.detach()
        terms = loss_terms(out.logits, x, *scored_by, out.z, out.log_pz, model.likelihood)
        if out.z.requires_grad:
            self._weigh_again(terms.reconstruction, out.z, images)
        return terms

    def _weigh_again(self, reconstruction: Tensor, z: Tensor, images: int) -> None:
        """Makes the gradient that reaches z that of Tucker et al. 2018 (DReG), arXiv 1810.04152.

        With w the normalised weight of a draw, ``w d log(weight) / dz`` through z alone is biased: what log q(z|x) has
        left out has mean 0 for one draw, and not once draws are weighted. ``w^2`` in place of w makes good for it; with
        a weight b of the KL, ``(1 - b) w + b w^2``. The gradient of the reconstruction is w / images.
        """
        weights: list[Tensor] = []
        reconstruction.register_hook(lambda gradient: weights.append(images * gradient))
        z.register_hook(lambda gradient: gradient * (1 - self.kl_weight + self.kl_weight * weights.pop())[:, None])


def make_optimizer(settings: Settings, model: VLAE, device: torch.device) -> torch.optim.Optimizer:
    """The optimizer, whose steps are one pass over the weights where torch has such: a third of the time on a CPU."""
    fused = {"fused": True} if settings.optimizer == "adam" and device.type in ("cpu", "cuda") else {}
    return _OPTIMIZERS[settings.optimizer](model.parameters(), lr=settings.lr, **fused)


def update(
    model: VLAE,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    objective: Objective,
    kl_weight: float,
    draws: torch.Generator | None = None,
) -> tuple[float, float]:
    """One update, none where the loss is not finite; returns mean reconstruction and KL before it, nats per image.

    draws: of one of several processes, see `Objective.shared_terms`; the optimizer sums their gradients before a step.
    """
    with torch.autocast(batch.x.device.type, torch.bfloat16, enabled=objective.settings.autocast):
        terms = objective.terms(model, batch) if draws is None else objective.shared_terms(model, batch, draws)
    reconstruction, kl = torch.stack([terms.reconstruction.mean(), terms.kl.mean()]).tolist()  # one wait for a GPU
    if math.isfinite(reconstruction + kl):
        optimizer.zero_grad(set_to_none=True)
        loss = objective(terms, kl_weight)
        if loss.requires_grad:  # a process without an image of this batch has no gradient, and gets those of the others
            loss.backward()
        optimizer.step()
    return reconstruction, kl
