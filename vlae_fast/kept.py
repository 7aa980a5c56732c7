"""Tensors that are made once and kept, and whether their origins were written to since.

Both backends' launchers and those in `kernels` need this, so it lies below them. It imports torch alone, as `masks`
does: kernels import nothing else of the package.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


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
