"""Images as the bytes that a page draws."""

from __future__ import annotations

import base64

import torch
from torch import Tensor


def bytes_of(image: Tensor) -> Tensor:
    """``[C, H, W]`` in [0, 1] -> uint8."""
    return (image.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8)


def in_base64(pixels: Tensor) -> str:
    """uint8 ``[C, H, W]``, row by row, the channels of a pixel side by side."""
    return base64.b64encode(pixels.permute(1, 2, 0).contiguous().numpy().tobytes()).decode()


def from_base64(text: str, height: int, width: int, channels: int) -> Tensor:
    """uint8 ``[1, C, H, W]``; ValueError where the text is not so many bytes."""
    raw = base64.b64decode(text, validate=True)
    if len(raw) != height * width * channels:
        raise ValueError(f"must be {height * width * channels} bytes in base64, got {len(raw)}")
    flat = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
    return flat.view(1, height, width, channels).permute(0, 3, 1, 2).contiguous()
