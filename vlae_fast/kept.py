"""What is made once and kept: tensors, and whether their origins were written to since; plans of calls.

Both backends' launchers and those in `kernels` need this, so it lies below them. It imports torch alone, as `masks`
does: kernels import nothing else of the package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
PLANS = 1024  # of one function that are kept: a batch of another size has another plan
_plans: list[Any] = []  # caches of functions that plan


def kept(device: torch.device, build: Callable[[], T]) -> T:
    """``build()``, of tensors on the device that outlive the call.

    The first run of a model compiled with CUDA graphs allocates in the graph's pool, and what is still held at its end
    is an error. The pool is the thread's: so another thread builds, on the caller's stream.
    """
    if device.type != "cuda" or torch.cuda.is_current_stream_capturing():
        with torch.inference_mode(False):
            return build()
    stream = torch.cuda.current_stream(device)

    def run() -> T:
        with torch.cuda.stream(stream):
            return build()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(run).result()


def state_of(tensor: Tensor) -> tuple[int, int] | None:
    """Changes when somebody writes to the tensor; None for one of inference mode, of which no version tells."""
    return None if tensor.is_inference() else (tensor._version, tensor.data_ptr())


def planned(plan: F) -> F:
    """Keeps what a function returns for its last `PLANS` sets of arguments.

    A plan is what a call's shapes, strides, dtypes, device and options decide. Its function is given these and no
    tensor, so that nothing can decide that is not in the key. Plans are never written to: threads share them.
    """
    kept_plans = lru_cache(PLANS)(plan)
    _plans.append(kept_plans)
    return kept_plans  # type: ignore[return-value]


@contextmanager
def plans_anew() -> Iterator[None]:
    """Keeps plans apart from those outside: for who changes what plans are made of, as a tuner changes block sizes."""
    forget_plans()
    try:
        yield
    finally:
        forget_plans()


def forget_plans() -> None:
    for plans in _plans:
        plans.cache_clear()
