"""Tensors that are made once and kept. On a GPU they must not lie in the memory of a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

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
