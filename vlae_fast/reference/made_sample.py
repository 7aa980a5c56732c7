"""Specification of `vlae_fast.ops.made_sample`: D passes of a MADE, each of which makes another dimension right."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..plan import BERNOULLI
from .arguments import Layers
from .made_inverse import made
from .pixelcnn_draw import draw


def made_sample(noise: Tensor, layers: Layers, activation: str) -> tuple[Tensor, Tensor]:
    """x ``[B, D]`` of 0 and 1 with ``x_d = 1`` where ``noise_d < sigmoid(logit_d(x))``, and ``log p(x)`` ``[B]``."""
    x, log_prob = torch.zeros_like(noise), noise.new_zeros(noise.shape[0])
    for _ in range(noise.shape[1]):  # pass n makes the dimensions of degree <= n right
        logits, _, _ = made(x, layers, activation)
        x = draw(logits, noise, BERNOULLI, 1.0)
        log_prob = -F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1)
    return x, log_prob
