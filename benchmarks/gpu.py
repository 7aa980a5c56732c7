"""Timing on a GPU: TF32 or not, CUDA graphs, times between events. On a CPU a graph is the call itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import TypeVar

import torch

MOST = 200  # calls of a slice

Call = Callable[[], object]
T = TypeVar("T")


@contextmanager
def precision(dtype: str) -> Iterator[None]:
    """Products of float32 numbers are of float32 while it lasts, or rounded to TF32 first where ``dtype`` says tf32."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def captured(call: Callable[[], T], device: torch.device) -> Callable[[], T]:
    """The replay of a CUDA graph of a call. What the call reads and writes must stay where it is."""
    if device.type != "cuda":
        return call
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # plans, workspaces and compilations are made outside the graph
        call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = call()

    def replay() -> T:
        graph.replay()
        return out

    return replay


def event_times(call: Call, slice_s: float) -> list[float]:
    """Seconds of each of the calls that fill a slice, issued back to back as a training loop does.

    They are times between events of the device: a host that runs ahead costs nothing, one that cannot keep up does.
    """
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    first = time.perf_counter() - start
    if first >= slice_s:
        return [first]
    events = [torch.cuda.Event(enable_timing=True) for _ in range(min(int(slice_s / first), MOST) + 1)]
    events[0].record()
    for event in events[1:]:
        call()
        event.record()
    torch.cuda.synchronize()
    return [a.elapsed_time(b) / 1e3 for a, b in pairwise(events)]


def peak_mb(call: Call) -> float:
    """MiB of torch's allocator at the peak of a call beyond what was held before it."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20
