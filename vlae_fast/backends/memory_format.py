"""Memory formats that every kernel reads: contiguous, and channels last for images."""

from __future__ import annotations

import torch
from torch import Tensor


def contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def nhwc(x: Tensor | None) -> Tensor | None:
    """An image ``[B, C, H, W]`` becomes ``[B, H, W, C]``, another tensor keeps its shape. The result is contiguous."""
    return contiguous(x if x is None or x.dim() != 4 else x.permute(0, 2, 3, 1))


def nchw(x: Tensor) -> Tensor:
    """An image ``[B, H, W, C]`` becomes ``[B, C, H, W]``, a view whose memory format is channels_last."""
    return x.permute(0, 3, 1, 2)


def in_channels_last(x: Tensor | None) -> Tensor | None:
    """An image ``[B, C, H, W]`` as ``[B, H, W, C]`` in memory, another tensor contiguous."""
    return contiguous(x) if x is None or x.dim() != 4 else x.contiguous(memory_format=torch.channels_last)


def channels_last(x: Tensor) -> Tensor:
    """x in the one memory format that outputs have, also where sizes of 1 make a format ambiguous."""
    _, channels, height, width = x.shape
    channels, height, width = max(channels, 1), max(height, 1), max(width, 1)
    if x.stride() == (height * width * channels, 1, width * channels, channels):
        return x
    return torch.empty_like(x, memory_format=torch.channels_last).copy_(x)
