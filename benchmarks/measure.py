"""Timing that can be believed: contenders take turns, ceilings are measured in the same run, quantiles not means."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

SLOW_S = 3.0


def quantile(times: list[float], q: float) -> float:
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


def interleaved(
    contenders: Mapping[str, Callable[[], object]], rounds: int, *, slice_s: float = 0.3
) -> dict[str, list[float]]:
    """Seconds per call of every contender: in each round each one runs at least once, fast ones for ``slice_s``.

    A first call warms up and is not counted, unless it takes over ``SLOW_S``: such a contender runs twice in all.
    """
    times: dict[str, list[float]] = {}
    for name, contender in contenders.items():
        start = time.perf_counter()
        contender()
        first = time.perf_counter() - start
        times[name] = [first] if first > SLOW_S else []
    for _ in range(rounds):
        for name, contender in contenders.items():
            if len(times[name]) >= 2 and times[name][0] > SLOW_S:
                continue
            until = time.perf_counter() + slice_s
            while True:
                start = time.perf_counter()
                contender()
                end = time.perf_counter()
                times[name].append(end - start)
                if end >= until:
                    break
    return times


def sgemm() -> Callable[[], object]:
    """The ceiling of arithmetic on a CPU: a float32 matrix product of 1024 x 1024 x 1024, `SGEMM_FLOPS` operations."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    out = torch.empty(1024, 1024)
    return lambda: torch.mm(a, b, out=out)


SGEMM_FLOPS = 2 * 1024**3


def cpu_name() -> str:
    """Model of the processor as the operating system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        import platform

        return platform.processor() or platform.machine()


def commit() -> str:
    """Short hash of the checkout, with ``+`` where files are changed."""
    try:
        words = ["git", "describe", "--always", "--dirty=+", "--abbrev=9"]
        return subprocess.run(
            words, capture_output=True, text=True, check=True, cwd=Path(__file__).parent
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
