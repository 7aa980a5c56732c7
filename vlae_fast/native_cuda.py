"""The CUDA library: loaded once, on import, where torch has CUDA. Its absence is a reason, never an ImportError."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .layout import contiguous, nhwc
from .native import build_report
from .program import Plan

_LIBRARY = Path(__file__).with_name("_native_cuda.so")
_OPS: Any = torch.ops.vlae_fast_cuda
OLDEST_GPU = (8, 0)


def _load() -> str | None:
    if not torch.backends.cuda.is_built():
        return "torch was built without CUDA"
    if not _LIBRARY.is_file():
        reason = build_report().get("cuda", {}).get("why_not") or "vlae_fast was not installed by pip"
        return f"not built because {reason}"
    if not hasattr(_OPS, "why_not"):  # a second registration of the same ops would end the process
        try:
            torch.ops.load_library(_LIBRARY)
        except Exception as error:  # OSError from the loader, RuntimeError from registration
            return f"failed to load because {error}"
    if not hasattr(_OPS, "why_not"):
        return f"failed to load because {_LIBRARY.name} is stale: it has no op `why_not`; reinstall"
    return None


_WHY_NOT = _load()


@lru_cache
def why_not() -> str | None:
    """Why the CUDA kernels cannot run here; None where they can."""
    if _WHY_NOT is not None:
        return _WHY_NOT
    if not torch.cuda.is_available():
        return "no CUDA device was found"
    oldest = min(torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count()))
    if oldest < OLDEST_GPU:
        wanted, found = (".".join(map(str, version)) for version in (OLDEST_GPU, oldest))
        return f"needs GPUs of compute capability {wanted}, got {found}"
    reason: str = _OPS.why_not()
    return reason or None


def detail() -> str:
    """What the library was compiled for."""
    return f": {', '.join(build_report().get('cuda', {}).get('architectures', []))}"


def pixelcnn_pack(weights: Sequence[Tensor], plan: Plan) -> list[Tensor]:
    """The program's weights in the kernel's layout, on their device, and a header that stays on the CPU."""
    dtype, on_cpu = weights[0].dtype, [w.detach().cpu().float().contiguous() for w in weights]
    packed, header = _OPS.pixelcnn_pack(on_cpu, plan.words, str(dtype).removeprefix("torch."))
    return [packed.to(weights[0].device, dtype), header]


def pixelcnn_sample(
    noise: Tensor,
    packed: Sequence[Tensor],
    plan: Plan,
    context: Tensor | None,
    known_mask: Tensor | None,
    known: Tensor | None,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    known_mask, known = contiguous(known_mask), contiguous(known)
    return _OPS.pixelcnn_sample(noise, *packed, plan.words, nhwc(context), known_mask, known, temperature)
