"""Specification of `made_sample` and `made_sample_levels`: D passes of a MADE, each makes another dimension right."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..plan import BERNOULLI
from .arguments import Layers
from .made import made
from .pixelcnn_draw import draw, draw_index


def made_sample(noise: Tensor, layers: Layers, activation: str) -> tuple[Tensor, Tensor]:
    """x ``[B, D]`` of 0 and 1 with ``x_d = 1`` where ``noise_d < sigmoid(logit_d(x))``, and ``log p(x)`` ``[B]``."""
    x, log_prob = torch.zeros_like(noise), noise.new_zeros(noise.shape[0])
    for _ in range(noise.shape[1]):  # pass n makes the dimensions of degree <= n right
        logits = made(x, layers, activation)
        x = draw(logits, noise, BERNOULLI, 1.0)
        log_prob = -F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1)
    return x, log_prob


def made_sample_levels(
    noise: Tensor, layers: Layers, tables: Sequence[Tensor], activation: str
) -> tuple[Tensor, Tensor]:
    """Levels x ``[B, D]`` with ``x_d = draw_index(logits of d given x, noise_d)``, and ``log p(x)`` ``[B]``.

    tables: ``[K_d, E_d]`` of each dimension. Its inputs are row x_d, its logits the next K_d outputs.
    """
    x, log_prob = torch.zeros(noise.shape, dtype=torch.int64, device=noise.device), noise.new_zeros(noise.shape[0])
    for _ in tables:  # pass n makes the dimensions of degree <= n right
        rows = torch.cat([table[x[:, d]] for d, table in enumerate(tables)], 1)
        logits = made(rows, layers, activation).split([len(table) for table in tables], 1)
        x = torch.stack([draw_index(own.double().T, noise[:, d].double()) for d, own in enumerate(logits)], 1)
        terms = [-F.cross_entropy(own, x[:, d], reduction="none") for d, own in enumerate(logits)]
        log_prob = torch.stack(terms, 1).sum(1)
    return x, log_prob
