"""CIFAR-10's Python version: pickles, of which only the numbers are taken, and nothing that they name is looked up.

A pickle names functions and calls them. Here the four names that such a file needs stand for recorders of their
arguments, and every other name is refused. The unpickler is Python's own in Python: that in C takes memory on the word
of the file.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np

from .files import CIFAR_SHAPE, Bytes


class _Dtype:
    """The type of an array's numbers, by name."""

    def __init__(self, name: Any = None, *_: Any) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        """Byte order and the like: a byte has none."""


class _Array:
    """What a pickle says of an array: (version, shape, type, whether columns come first, bytes)."""

    state: Any = None

    def __init__(self, *_: Any) -> None:
        """Its arguments are an empty array's."""

    def __setstate__(self, state: Any) -> None:
        self.state = state


_STAND_INS = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
}


class _Unpickler(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise ValueError(f"must hold arrays of bytes alone, found the name {module}.{name}")
        return _STAND_INS[module, name]


def cifar_of_pickle(body: bytes, where: str) -> tuple[Bytes, Bytes]:
    """Images uint8 ``[N, 3, 32, 32]`` and labels uint8 ``[N]`` of a batch, such as data_batch_1.

    Raises:
        ValueError: anything else than such a batch.
    """
    try:
        batch = _Unpickler(io.BytesIO(body), encoding="bytes").load()
    except Exception as error:  # of whatever kind a wrong pickle raises
        raise ValueError(f"{where}: must be a pickled batch of CIFAR-10: {error!s:.200}") from error
    if not isinstance(batch, dict):
        raise ValueError(f"{where}: must hold a dict, got {type(batch).__name__}")
    images, labels = (batch.get(key.encode(), batch.get(key)) for key in ("data", "labels"))
    return _images(images, where), _labels(labels, where)


def _images(found: Any, where: str) -> Bytes:
    width = int(np.prod(CIFAR_SHAPE))
    state = found.state if isinstance(found, _Array) else None
    if not (isinstance(state, tuple) and len(state) == 5):
        raise ValueError(f"{where}: data must be an array")
    _, shape, dtype, fortran, raw = state
    name = dtype.name if isinstance(dtype, _Dtype) else None
    n = len(raw) // width if isinstance(raw, bytes) else 0
    if name not in ("u1", b"u1", "uint8", b"uint8") or fortran or not n or shape != (n, width) or len(raw) != n * width:
        raise ValueError(f"{where}: data must be bytes [N, {width:,}] in C order, got {name!r} {shape!s:.60}")
    return np.frombuffer(raw, np.uint8).reshape(n, *CIFAR_SHAPE)


def _labels(found: Any, where: str) -> Bytes:
    if not (isinstance(found, list) and all(type(label) is int and 0 <= label <= 9 for label in found)):
        raise ValueError(f"{where}: labels must be a list of classes from 0 to 9")
    return np.array(found, np.uint8)
