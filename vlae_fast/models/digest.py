"""A name for tensors by their content, which two processes, two commands or two machines may compare."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """32 hexadecimal digits of what `add_tensors` adds: BLAKE2b."""
    found = hashlib.blake2b(digest_size=16)
    add_tensors(found, tensors)
    return found.hexdigest()


def add_tensors(found: Any, tensors: Mapping[str, Tensor]) -> None:
    """Updates a hash by names, dtypes, shapes and values, little-endian, in the order of the names."""
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        numbers = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        if sys.byteorder != "little":
            numbers = numbers.view(-1, tensor.element_size()).flip(1)
        found.update(numbers.contiguous().numpy().data)
