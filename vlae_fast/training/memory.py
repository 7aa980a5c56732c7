"""Memory of the C library between the steps of a training run, or the batches of an evaluation."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from pathlib import Path

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_NEVER, _LARGEST_BLOCK = (1 << 31) - 1, 32 << 20  # bytes; the largest that each takes
_SECONDS = 10.0  # between two looks
_most: dict[int, int] = {}  # bytes, by process: a fork has no thread that looks


class _Info(ctypes.Structure):
    """mallinfo2(3), in bytes."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost").split()
    ]


def keep_freed_memory(most: int = 2 << 30) -> bool:
    """Lets this process keep what it frees, up to `most` bytes; returns True where the C library can: glibc's.

    A step on the CPU frees the maps that the next step needs again. glibc gives what is freed back to the system, which
    clears every page before it hands it out once more: 5 to 10 % of the default model's step, more where the heap lies
    worse. It holds for all of the process, from the call on; the commands ``train`` and ``evaluate`` make it. Blocks of
    more than 32 MiB still go back.

    A free block of PyTorch's seldom fits the next request of its size, which wants it aligned (glibc before 2.38), so
    that the heap of a run grows: by gigabytes in an hour. A thread looks every 10 seconds, and gives all that is free
    back where the memory that is free and not given back is more than `most`.

    Equivalent, but for the thread, to ``MALLOC_TRIM_THRESHOLD_=2147483647 MALLOC_MMAP_THRESHOLD_=33554432`` in the
    environment.

    Source: mallopt(3), mallinfo2(3), malloc_trim(3).
    """
    try:
        libc = ctypes.CDLL(None)
        mallopt, info, trim = libc.mallopt, libc.mallinfo2, libc.malloc_trim
    except (AttributeError, OSError, TypeError):  # of another C library, of another system
        return False
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    info.argtypes, info.restype = [], _Info
    trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    if not (mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK) and mallopt(_TRIM_THRESHOLD, _NEVER)):
        return False
    is_first = os.getpid() not in _most
    _most[os.getpid()] = most
    if is_first:
        threading.Thread(target=_look, args=(libc,), name="vlae_fast.keep_freed_memory", daemon=True).start()
    return True


def _look(libc: ctypes.CDLL) -> None:
    others = _kept(libc)  # code, and memory of other allocators
    while True:
        time.sleep(_SECONDS)
        if _kept(libc) - others > _most[os.getpid()]:
            libc.malloc_trim(0)


def _kept(libc: ctypes.CDLL) -> int:
    """Bytes in memory that are none of malloc's blocks in use: what malloc calls free was in part given back."""
    info = libc.mallinfo2()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") - int(info.uordblks) - int(info.hblkhd)
