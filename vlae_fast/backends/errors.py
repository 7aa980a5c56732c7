"""Errors of the native libraries that have a type of their own: the stable ABI itself has one for all."""

from __future__ import annotations

from typing import Any

import torch


class OutOfMemoryError(torch.OutOfMemoryError, MemoryError):
    """Memory is not there: the message has the op and the bytes. Caught as PyTorch's error and as Python's."""


def run_native(ops: Any, op: str, *args: Any) -> Any:
    """An op of a library; raises OutOfMemoryError where it says that it wants memory, else what the op raises."""
    try:
        return getattr(ops, op)(*args)
    except RuntimeError as error:
        if ": memory must hold " in str(error):
            raise OutOfMemoryError(*error.args) from None
        raise
