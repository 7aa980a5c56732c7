"""What a target hands to samplers and inverses, without a GPU, and how long the CUDA library would take for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor

from vlae_fast.backends import table
from vlae_fast.plan import Plan
from vlae_fast.reference.arguments import Layers, Transform

from . import cuda_plans
from .h100 import CLOCK, L2, LAUNCH_US, PROCESSORS, SHARED
from .step_cycles import inverse_cycles, sampler_cycles

LAUNCHES = 2  # the conditions and the draws; the packing of weights and the walk


class Sampling(NamedTuple):
    plan: Plan
    size: tuple[int, int]
    batch: int
    dtype: torch.dtype

    @property
    def name(self) -> str:
        return "pixelcnn_sample"

    @property
    def microseconds(self) -> float:
        """Estimate in a CUDA graph."""
        cut = cuda_plans.sampler(self.plan, self.size, self.batch, self.dtype, (PROCESSORS, SHARED))
        return 1e6 * sampler_cycles(cut, self.dtype) / CLOCK + LAUNCHES * LAUNCH_US


class Inverse(NamedTuple):
    degrees: Sequence[Tensor]
    steps: int
    batch: int
    weights: int  # bytes, dead ones too

    @property
    def name(self) -> str:
        return "made_inverse"

    @property
    def microseconds(self) -> float:
        """Estimate in a CUDA graph: weights are read and written once more to be packed."""
        cycles = inverse_cycles(cuda_plans.flow(self.degrees), self.batch, self.steps)
        return 1e6 * (cycles / CLOCK + 2 * self.weights / L2) + LAUNCHES * LAUNCH_US


@contextmanager
def called() -> Iterator[list[Sampling | Inverse]]:
    """Calls of `pixelcnn_sample` and `made_inverse`, by any backend, are written down instead of made."""
    calls: list[Sampling | Inverse] = []

    def sample(noise: Tensor, packed: object, plan: Plan, *rest: object) -> None:
        calls.append(Sampling(plan, (noise.shape[2], noise.shape[3]), len(noise), noise.dtype))

    def inverse(eps: Tensor, layers: Layers, transform: Transform) -> tuple[Tensor, Tensor]:
        steps = len(layers.weights) // (len(layers.degrees) - 1)
        calls.append(Inverse(layers.degrees, steps, len(eps), sum(w.nbytes for w in layers.weights)))
        return eps.new_zeros(steps, *eps.shape), eps.new_zeros(len(eps))

    stubs: dict[str, Any] = {"pixelcnn_sample": sample, "made_inverse": inverse}
    with ExitStack() as stack:
        for row in table.TABLE:
            for op, stub in stubs.items():
                if hasattr(row.namespace, op):
                    stack.enter_context(mock.patch.object(row.namespace, op, stub))
        yield calls
