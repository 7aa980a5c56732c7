"""Where float64 is: draws are decided in it, and decoders compared."""

from __future__ import annotations

from functools import lru_cache

import torch


@lru_cache
def device_of_float64(device: torch.device) -> torch.device:
    """The device, or the CPU where it has no float64, as GPUs of Apple and some of Intel."""
    try:
        torch.ones(1, dtype=torch.float64, device=device).sigmoid()
    except (TypeError, RuntimeError):
        return torch.device("cpu")
    return device
