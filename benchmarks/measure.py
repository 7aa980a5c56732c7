"""Timing that can be believed: contenders take turns, ceilings are measured in the same run, quantiles not means."""

from __future__ import annotations

import ctypes
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

Call = Callable[[], object]
SLOW_S = 3.0


def quantile(times: list[float], q: float) -> float:
    """Interpolated: the median of two is their mean, not the larger."""
    return torch.tensor(times, dtype=torch.float64).quantile(q).item()


def seconds(call: Call) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def interleaved(contenders: Mapping[str, Call], rounds: int, *, slice_s: float = 0.3) -> dict[str, list[float]]:
    """Seconds per call of every contender: in each round each one runs at least once, fast ones for ``slice_s``.

    A first call warms up (and compiles) and is never counted. A contender that takes over ``SLOW_S`` is timed twice.
    """
    for contender in contenders.values():
        contender()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            if len(times[name]) >= 2 and min(times[name]) > SLOW_S:
                continue
            until = time.perf_counter() + slice_s
            while True:
                times[name].append(seconds(contender))
                if time.perf_counter() >= until:
                    break
    return times


def sgemm(device: torch.device) -> Call:
    """The ceiling of arithmetic: a float32 matrix product of 1024 x 1024 x 1024, `SGEMM_FLOPS` operations."""
    a, b, out = (torch.ones(1024, 1024, device=device) for _ in range(3))
    return lambda: torch.mm(a, b, out=out)


SGEMM_FLOPS = 2 * 1024**3


def copy(device: torch.device) -> Call:
    """The ceiling of memory: 128 MiB copied, beyond any cache, `COPY_BYTES` read and written."""
    a, b = (torch.ones(COPY_BYTES // 8, device=device) for _ in range(2))
    return lambda: b.copy_(a)


COPY_BYTES = 2 * 128 * 2**20


def peak_mb(call: Call) -> float:
    """MiB that a call takes at its peak beyond what was held before it; NaN where the system cannot say (not Linux).

    It is the process's high-water mark, so that scratch outside torch's allocator is in it. Memory that was freed and
    kept for later use is given back first, or using it again would look like using none.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again
    except (OSError, AttributeError, TypeError):  # no /proc, no glibc, no C library by this name
        return float("nan")
    before = _status_kib("VmRSS")
    call()
    return (_status_kib("VmHWM") - before) / 1024


def _status_kib(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


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
