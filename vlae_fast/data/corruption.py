"""Changes of images for training: noise, which models are shown to remove, and mirroring."""

from __future__ import annotations

import torch
from torch import Tensor


def corrupt(x: Tensor, amount: float, *, levels: int = 2, generator: torch.Generator | None = None) -> Tensor:
    """x in [0, 1] with noise on it, of the same shape and range.

    levels 2: each pixel is flipped with probability `amount`. More levels: normal noise of standard deviation `amount`
    is added, and what leaves [0, 1] is cut off.
    """
    check_amount("amount", amount, levels)
    if levels == 2:
        flipped = torch.rand(x.shape, dtype=x.dtype, device=x.device, generator=generator) < amount
        return torch.where(flipped, 1 - x, x)
    noise = torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
    return (x + amount * noise).clamp(0, 1)


def mirrored(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Images ``[B, C, H, W]``, each mirrored left to right with probability 1/2; draws on the CPU."""
    mirror = torch.rand(len(x), generator=generator, device="cpu") < 0.5
    return torch.where(mirror.to(x.device)[:, None, None, None], x.flip(-1), x)


def check_amount(name: str, amount: float, levels: int) -> None:
    """Raises ValueError where `amount`, the argument `name`, is no probability of a flip or no standard deviation."""
    high, rule = (0.5, "a flip's probability, from 0 to 0.5,") if levels == 2 else (1.0, "from 0 to 1")
    if not 0 <= amount <= high:
        raise ValueError(f"{name}: must be {rule} for images of {levels} levels, got {amount}")
