"""Shapes of batches: the check of images, and rows that several draws share."""

from __future__ import annotations

import math

from torch import Tensor


def check_images(name: str, x: Tensor, shape: tuple[int, ...]) -> None:
    """Raises ValueError, in the name of a part of a model, unless x is ``[B, C, H, W]`` with (C, H, W) = shape."""
    if x.dim() == 4 and tuple(x.shape[1:]) == shape:
        return
    sizes = ", ".join(map(str, shape))
    flat = x.dim() > 1 and math.prod(x.shape[1:]) == math.prod(shape)
    advice = f": give it x.view(-1, {sizes})" if flat and x.dim() < 4 else ""
    raise ValueError(f"{name}: x must be [B, {sizes}], got {tuple(x.shape)}{advice}")


def each(x: Tensor, draws: int) -> Tensor:
    """Every row of x ``draws`` times, side by side, ``[B draws, ...]``; of a single row a view, with a stride of 0."""
    return x if draws == 1 else x.unsqueeze(1).expand(-1, draws, *x.shape[1:]).flatten(0, 1)
