"""What a decoder's output says about pixels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def bernoulli_log_prob(logits: Tensor, x: Tensor) -> Tensor:
    """``log p(x | logits)`` in nats per image, ``[B]``, for pixels x in [0, 1]; both ``[B, C, H, W]``."""
    if x.shape != logits.shape:
        raise ValueError(f"bernoulli_log_prob: x must be {tuple(logits.shape)} like the logits, got {tuple(x.shape)}")
    return -F.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)
