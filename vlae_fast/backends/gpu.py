"""Reasons why no kernel can run on this machine's GPUs."""

from __future__ import annotations

import torch

OLDEST = (8, 0)  # bfloat16 matrix instructions, asynchronous copies


def why_not() -> str | None:
    """Why no kernel for GPUs can run here; None where one can."""
    if not torch.backends.cuda.is_built():
        return "torch was built without CUDA"
    if not torch.cuda.is_available():
        return "no CUDA device was found"
    oldest = min(torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count()))
    if oldest < OLDEST:
        wanted, found = (".".join(map(str, version)) for version in (OLDEST, oldest))
        return f"needs GPUs of compute capability {wanted}, found {found} (CUDA_VISIBLE_DEVICES can hide it)"
    return None
