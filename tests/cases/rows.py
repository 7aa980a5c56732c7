"""Rows of the table of backends to parametrize tests over: an absent one skips, or fails where it must be there."""

import os
from collections.abc import Callable, Iterable
from itertools import product
from typing import Any

import pytest
import torch

from vlae_fast import backends
from vlae_fast.backends import triton

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def require(backend: str, device: str = "cpu", *, allow_module_level: bool = False) -> str:
    """The backend's name; skips where it is absent or for other devices, fails where it must be there.

    VLAE_FAST_ROWS names the rows of a run that is of some alone, such as cpu under a sanitizer.
    """
    if backend not in os.environ.get("VLAE_FAST_ROWS", backend).split(","):
        pytest.skip("not in VLAE_FAST_ROWS", allow_module_level=allow_module_level)
    row = next(r for r in backends.TABLE if r.name == backend)
    reason = row.absent()
    if reason is not None:
        if os.environ.get(f"VLAE_FAST_REQUIRE_{backend.upper()}") == "1":
            pytest.fail(f"backend {backend} is required and absent: {reason}")
        pytest.skip(f"backend {backend} is absent: {reason}", allow_module_level=allow_module_level)
    if row.devices and device not in row.devices:
        pytest.skip(f"backend {backend} runs on {', '.join(row.devices)}", allow_module_level=allow_module_level)
    return backend


def is_interpreted(backend: str) -> bool:
    """True where this row's kernels run in Triton's interpreter, which takes seconds for a few tiles."""
    return backend == "triton" and triton.INTERPRETED


def backends_of(op: str) -> list[str]:
    """Rows that have an op, as a list to parametrize over; absent ones are left to `require`."""
    return [r.name for r in backends.TABLE if hasattr(r.namespace, op)]


def backends_and_cases(op: str, cases: Iterable[Any], slow_when_interpreted: Callable[[Any], bool]) -> list[Any]:
    """Every row that has an op with every case; some are too much for an interpreter to be quick."""
    pairs = list(product(backends_of(op), cases))
    slow = [is_interpreted(row) and slow_when_interpreted(case) for row, case in pairs]
    return [pytest.param(*pair, marks=[pytest.mark.slow] * is_slow) for pair, is_slow in zip(pairs, slow, strict=True)]


def backends_and_dtypes(op: str) -> list[tuple[str, torch.dtype]]:
    """Every row that has an op with every dtype that it computes in."""
    rows = [r for r in backends.TABLE if r.name in backends_of(op)]
    return [(r.name, dtype) for r in rows for dtype in r.dtypes.get(op) or DTYPES]
