"""Draws from a MADE: a dimension as soon as its logits are known."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...reference.arguments import Layers
from ..float64 import device_of_float64
from .made_walk import Walk


@torch.no_grad()
def made_sample(noise: Tensor, layers: Layers, activation: str) -> tuple[Tensor, Tensor]:
    """Bits x ``[B, D]``, which are the inputs themselves, and their log-probability ``[B]``."""
    batch, dim = noise.shape
    walk = Walk(layers, activation, batch, dim)
    wide = noise.to(device_of_float64(noise.device)).double().T.index_select(0, walk.input_order)
    for d, logits, x in walk:
        x.copy_(wide[d] < torch.sigmoid(logits.to(wide)))
    drawn, logits = walk.values[0], walk.values[-1]
    log_prob = F.logsigmoid(torch.where(drawn > 0, logits, -logits)).sum(0)
    return torch.empty_like(drawn).index_copy_(0, walk.input_order, drawn).T.contiguous(), log_prob


@torch.no_grad()
def made_sample_levels(
    noise: Tensor, layers: Layers, tables: Sequence[Tensor], activation: str
) -> tuple[Tensor, Tensor]:
    """Levels x ``[B, D]``, the inputs of a dimension being a row of its table, and their log-probability ``[B]``."""
    batch, dim = noise.shape
    walk = Walk(layers, activation, batch, dim)
    x, terms = noise.new_empty((batch, dim), dtype=torch.int64), []
    wide = noise.to(device_of_float64(noise.device)).double().T.contiguous()
    inputs = torch.tensor([table.shape[1] for table in tables], device="cpu")
    firsts = layers.degrees[0][(inputs.cumsum(0) - inputs).to(layers.degrees[0].device)]  # degrees of the dimensions
    dimension_of = firsts.argsort().tolist()
    for degree, logits, own in walk:
        d = dimension_of[degree]
        p = logits.to(wide)
        sums = (p - p.amax(0)).exp_().cumsum(0)
        x[:, d] = index = (sums[:-1] <= wide[d] * sums[-1]).sum(0).to(x.device)
        own.copy_(tables[d][index].T)
        terms.append(logits.log_softmax(0).gather(0, index[None]))
    return x, torch.cat(terms).sum(0)
