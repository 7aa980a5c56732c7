"""The CUDA library: loaded once, on import, where torch has CUDA. Its absence is a reason, never an ImportError."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..kernels.degrees import once
from ..plan import Plan
from ..reference.arguments import Layers, Transform
from . import gpu
from .library import build_report, library_file, load
from .memory_format import contiguous, nhwc

_LIBRARY = library_file("cuda")
_OPS: Any = torch.ops.vlae_fast_cuda
_MAX_LAYERS = 512  # of a call of made_inverse: their addresses are arguments of a kernel


def _load() -> str | None:
    if not torch.backends.cuda.is_built():
        return "torch was built without CUDA"
    return load(_LIBRARY, _OPS, "why_not")


_WHY_NOT = _load()


@lru_cache
def why_not() -> str | None:
    """Why the CUDA kernels cannot run here; None where they can."""
    if (reason := _WHY_NOT or gpu.why_not()) is not None:
        return reason
    unable: str = _OPS.why_not()
    return unable or None


def lacks(plan: Plan, like: Tensor | None) -> str | None:
    """The part of a plan that the kernel has not, or what the device has too little of for weights like these, or None.

    Limits of the image's size are not among them: weights are packed before it is known.
    """
    if any(stage.kind == "attend" for stage in plan.stages):
        return "has no stage of kind attend"
    return None if like is None else _OPS.pixelcnn_lacks(like, plan.words) or None


def detail() -> str:
    """The architectures that the library was compiled for."""
    return f": {', '.join(build_report().get('cuda', {}).get('architectures', []))}"


def pixelcnn_pack(weights: Sequence[Tensor], plan: Plan) -> list[Tensor]:
    """The program's weights in the order in which the kernel reads them, on their device, and a header on the CPU."""
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


def steps_at_once(n_layers: int) -> int:
    """The number of steps, of ``n_layers`` layers each, that `made_inverse` takes in a call."""
    return max(1, _MAX_LAYERS // n_layers)


def made_inverse(eps: Tensor, layers: Layers, transform: Transform) -> tuple[Tensor, Tensor]:
    """Runs all steps by two launches: the first puts the weights in the order in which the second reads them."""

    def plan(values: list[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
        tables, header = _OPS.made_plan([torch.tensor(v, dtype=torch.int64, device="cpu") for v in values])
        return tables.to(eps.device), header

    tables, header = once(layers.degrees, eps.device, ("cuda",), plan)
    flat = [[t.contiguous() for t in tensors] for tensors in (layers.weights, layers.biases)]
    return _OPS.made_inverse(eps.contiguous(), *flat, tables, header, contiguous(layers.cond), *transform)


def made_sample(noise: Tensor, layers: Layers, activation: str) -> tuple[Tensor, Tensor]:
    (x,), log_prob = made_inverse(noise, layers, Transform(activation, "bernoulli"))
    return x, log_prob
