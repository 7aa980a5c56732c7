"""Densities are summed in float32 at least: under autocast or in bfloat16 networks give numbers of 8 bits."""

from __future__ import annotations

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """The tensor in float32 where it is of a narrower type, else as it is."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def wide_under_autocast(x: Tensor) -> Tensor:
    """`wide` where the layers that take x narrow it again by themselves; else a layer would refuse it."""
    return wide(x) if torch.is_autocast_enabled(x.device.type) else x
