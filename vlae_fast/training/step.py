"""One update of the parameters."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..models.vlae import VLAE, loss_terms
from .settings import Settings


def update(
    model: VLAE, optimizer: torch.optim.Optimizer, x: Tensor, settings: Settings, kl_weight: float
) -> tuple[float, float]:
    """One update, none where the loss is not finite; returns mean reconstruction and KL before it, nats per image."""
    out = model(x)
    terms = loss_terms(out.logits, x, out.mu, out.logvar, out.z, out.log_pz)
    reconstruction, kl = terms.reconstruction.mean(), terms.kl.mean()
    shown = (reconstruction.item(), kl.item())
    if math.isfinite(sum(shown)):
        optimizer.zero_grad(set_to_none=True)
        if settings.free_bits:
            kl = kl.clamp(min=settings.free_bits * math.log(2))
        (reconstruction + kl_weight * kl).backward()
        optimizer.step()
    return shown
