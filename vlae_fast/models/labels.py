"""Class labels as networks take them: checked once, here."""

from __future__ import annotations

import torch
from torch import Tensor


def one_hot(who: str, labels: Tensor | None, n_classes: int, like: Tensor) -> Tensor:
    """``[B, n_classes]`` in the dtype and on the device of `like` ``[B, ...]``.

    Raises: ValueError, TypeError naming `who`, for labels that are missing, not one integer an image, or out of range.
    In a compiled or exported graph a label out of range gives NaN.
    """
    if labels is None:
        raise ValueError(f"{who}: labels must be given where n_classes is {n_classes}, got None")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"{who}: labels must be integers, got {labels.dtype}")
    if tuple(labels.shape) != (like.shape[0],):
        raise ValueError(f"{who}: labels must be [{like.shape[0]}], one an image, got {tuple(labels.shape)}")
    labels = labels.to(like.device)
    outside = (labels < 0) | (labels >= n_classes)
    found = (labels[:, None] == torch.arange(n_classes, device=like.device)).to(like.dtype)
    if torch.compiler.is_compiling():  # a graph cannot branch on values: other labels give NaN
        return found.masked_fill(outside[:, None], torch.nan)
    if outside.any():
        raise ValueError(f"{who}: labels must be from 0 to {n_classes - 1}, got {labels[outside][0].item()}")
    return found


def check_no_labels(who: str, labels: Tensor | None) -> None:
    if labels is not None:
        raise ValueError(f"{who}: labels must be None where n_classes is 0, got a tensor")
