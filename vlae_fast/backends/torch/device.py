"""What a device can do."""

from __future__ import annotations

from functools import lru_cache

import torch


@lru_cache
def device_of_draws(device: torch.device) -> torch.device:
    """Where draws are decided in float64: the device, or the CPU where it has none, as GPUs of Apple, some of Intel."""
    try:
        torch.ones(1, dtype=torch.float64, device=device).sigmoid()
    except (TypeError, RuntimeError):
        return torch.device("cpu")
    return device
