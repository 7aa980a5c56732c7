"""Timing that can be believed: contenders take turns, ceilings are measured in the same run, quantiles not means."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.mkldnn import to_mkldnn

from .gpu import Call

Timer = Callable[[Call, float], list[float]]  # call, seconds of a slice -> seconds of each call
SLOW_S = 3.0


def quantile(times: list[float], q: float) -> float:
    """Interpolated: the median of two is their mean, not the larger."""
    return torch.tensor(times, dtype=torch.float64).quantile(q).item()


def seconds(call: Call) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def wall_times(call: Call, slice_s: float) -> list[float]:
    """Seconds of each of the calls that fill a slice, one at least."""
    times = []
    until = time.perf_counter() + slice_s
    while not times or time.perf_counter() < until:
        times.append(seconds(call))
    return times


def warmed_up(contenders: Mapping[str, Call], calls: int = 1) -> dict[str, str]:
    """Calls every contender, which compiles; these calls are never counted. Returns who failed, and how.

    Slow ones are called once: ``calls`` is more than one where a compiler records what the second call does.
    """
    failed = {}
    for name, contender in contenders.items():
        try:
            contender()
            for _ in range(calls - 1):
                if seconds(contender) > SLOW_S:
                    break
        except Exception as error:
            failed[name] = f"{type(error).__name__}: {error}".partition("\n")[0][:300]
    return failed


def interleaved(
    contenders: Mapping[str, Call], rounds: int, *, slice_s: float = 0.3, timer: Timer = wall_times
) -> dict[str, list[float]]:
    """Seconds per call of every contender: in each round each one runs at least once, fast ones for ``slice_s``.

    A contender that takes over ``SLOW_S`` is timed twice.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            if len(times[name]) < 2 or min(times[name]) <= SLOW_S:
                times[name] += timer(contender, slice_s)
    return times


class Ceiling(NamedTuple):
    call: Call
    work: float  # floating-point operations or bytes of a call


def matmuls(device: torch.device, dtype: torch.dtype) -> dict[str, Ceiling]:
    """The ceiling of arithmetic by each library there is: a product of square matrices, 1024, on a GPU 8192 a side.

    The numbers are random: a processor that is fed zeros needs less power, and runs faster than it ever will at work.
    MKL takes its slower path on the processors of others, where oneDNN may be the faster of the two, or not.
    """
    size = 8192 if device.type == "cuda" else 1024
    a, b, out = (torch.randn(size, size, device=device).to(dtype) for _ in range(3))
    blas = "cublas" if device.type == "cuda" else "mkl" if torch.backends.mkl.is_available() else "blas"
    found = {blas: Ceiling(lambda: torch.mm(a, b, out=out), 2.0 * size**3)}
    if device.type == "cpu" and dtype == torch.float32 and torch.backends.mkldnn.is_available():
        packed, x = to_mkldnn(nn.Linear(size, size).eval()), a.to_mkldnn()
        found["onednn"] = Ceiling(lambda: packed(x), 2.0 * size**3)
    return found


def mkl_path() -> str:
    """The processors that MKL says its code here is for, such as ``Intel(R) Architecture processors``; "" without MKL.

    On others than Intel's it says this and no instruction set: it leaves AVX-512 alone there.
    """
    if not torch.backends.mkl.is_available():
        return ""
    code = "import torch; a = torch.ones(64, 64); a @ a"
    environment = {**os.environ, "MKL_VERBOSE": "1"}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment).stdout
    found = re.search(r"^MKL_VERBOSE .*?for Intel\(R\) 64 architecture (.*?),? Lnx", said)
    return found[1] if found else ""


def copy(device: torch.device) -> Ceiling:
    """The ceiling of memory: a copy beyond any cache, 128 MiB, on a GPU 1 GiB, read and written."""
    size = 2**30 if device.type == "cuda" else 2**27
    a, b = (torch.ones(size // 4, device=device) for _ in range(2))
    return Ceiling(lambda: b.copy_(a), 2.0 * size)


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


def device_name(device: torch.device) -> str:
    """Model of the GPU, or of the processor as the operating system names it; with family and model where it has them.

    A virtual machine may leave of the name what a whole line of processors has in common.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    except OSError:
        lines = []
    facts = {key.strip(): value.strip() for key, _, value in reversed(lines)}
    name = facts.get("model name") or platform.processor() or platform.machine()
    return f"{name} (family {facts['cpu family']}, model {facts['model']})" if "cpu family" in facts else name


def commit() -> str:
    """Short hash of the checkout, with ``+`` where files are changed."""
    try:
        words = ["git", "describe", "--always", "--dirty=+", "--abbrev=9"]
        return subprocess.run(
            words, capture_output=True, text=True, check=True, cwd=Path(__file__).parent
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
