"""Memory of the C library between the steps of a training run, or the batches of an evaluation."""

from __future__ import annotations

import ctypes
import threading
import time

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_NEVER, _LARGEST_BLOCK = (1 << 31) - 1, 32 << 20  # bytes; the largest that each takes
_FREE = 8  # the field of mallinfo2(3)
_SECONDS = 10.0  # between two looks


class _Info(ctypes.Structure):
    """mallinfo2(3): ten sizes in bytes."""

    _fields_ = [("sizes", ctypes.c_size_t * 10)]


def keep_freed_memory(most: int = 2 << 30) -> bool:
    """Lets this process keep what it frees, up to `most` bytes; returns True where the C library can: glibc's.

    A step on the CPU frees the maps that the next step needs again. glibc gives what is freed back to the system, which
    clears every page before it hands it out once more: 5 to 10 % of the default model's step, more where the heap lies
    worse. It holds for all of the process, from the call on; the commands ``train`` and ``evaluate`` make it. Blocks of
    more than 32 MiB still go back.

    A free block of PyTorch's seldom fits the next request of its size, which wants it aligned (glibc before 2.38), so
    that the heap of a run grows: by gigabytes in an hour. A thread looks every 10 seconds, and gives all that is free
    back where it is more than `most`.

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
    _watch.most, _watch.libc = most, libc
    if not _watch.is_alive():
        _watch.start()
    return True


class _Watch(threading.Thread):
    """Gives all free memory back to the system where it is more than `most` bytes."""

    most: int
    libc: ctypes.CDLL

    def run(self) -> None:
        while True:
            time.sleep(_SECONDS)
            self.look()

    def look(self) -> None:
        if self.libc.mallinfo2().sizes[_FREE] > self.most:
            self.libc.malloc_trim(0)


_watch = _Watch(name="vlae_fast.keep_freed_memory", daemon=True)
