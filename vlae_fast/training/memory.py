"""Memory of the C library between the steps of a training run."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_MOST_KEPT, _LARGEST_BLOCK = (1 << 31) - 1, 32 << 20  # bytes; the largest that each takes


def keep_freed_memory() -> bool:
    """Lets this process keep memory that it frees, up to 2 GiB, and returns True where the C library can: glibc's.

    A step on the CPU frees the maps that the next step needs again. glibc gives what is freed back to the system, which
    clears every page before it hands it out once more: 5 to 10 % of the default model's step, more where the heap lies
    worse. It holds for all of the process, from the call on; ``python -m vlae_fast train`` makes it. Blocks of
    more than 32 MiB still go back.

    Equivalent to starting the process with ``MALLOC_TRIM_THRESHOLD_=2147483647 MALLOC_MMAP_THRESHOLD_=33554432``.

    Source: mallopt(3).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # of another C library, of another system
        return False
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK)) and bool(mallopt(_TRIM_THRESHOLD, _MOST_KEPT))
