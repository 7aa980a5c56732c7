"""MATLAB files of version 5 (the format's public description): real matrices by name; nothing in the file is trusted.

scipy's reader can crash the process on a damaged file, and unpacks as much as it is given.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .files import MAX_BYTES, read_bytes

_HEADER_BYTES = 128
_INT8, _INT32, _UINT32, _MATRIX, _COMPRESSED = 1, 5, 6, 14, 15  # types of elements
_NUMBERS = {1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8", 12: "<i8", 13: "<u8"}
_CLASSES = ("cell", "struct", "object", "char", "sparse", "double", "single", "int8", "uint8", "int16", "uint16",
            "int32", "uint32", "int64", "uint64")  # fmt: skip
_REAL = slice(5, None)  # of the classes
_MAX_NUMBERS = MAX_BYTES // 8
_COMPLEX = 0x0800  # a flag of a matrix
_NAME_WITHIN = 512  # flags, sizes and the name (at most 63 characters) of a matrix come before this byte

Array = np.ndarray[Any, Any]
Shape = tuple[int | None, ...]


class _Matrix(NamedTuple):
    name: str
    kind: str
    shape: tuple[int, ...]
    values_at: int


def read_mat(path: Path, shapes: Mapping[str, Shape]) -> dict[str, Array]:
    """The matrices of these names and shapes (None: any length)."""
    data = memoryview(read_bytes(path))
    try:
        if len(data) < _HEADER_BYTES or bytes(data[124:128]) != b"\x00\x01IM":
            raise ValueError("must be a little-endian MATLAB file of version 5")
        found: dict[str, Array] = {}
        seen, at, left = [], _HEADER_BYTES, _MAX_NUMBERS
        while at < len(data):
            kind, body, at = _element(data, at)
            if kind not in (_MATRIX, _COMPRESSED):
                raise ValueError(f"must hold matrices alone, got an element of type {kind}")
            head = _inflate(body, _NAME_WITHIN) if kind == _COMPRESSED else body
            matrix = _describe(head, 8 if kind == _COMPRESSED else 0)
            seen.append(matrix.name)
            if matrix.name in shapes:
                _check(matrix, shapes[matrix.name], left)
                n = math.prod(matrix.shape)
                left -= n
                whole = _inflate(body, matrix.values_at + 8 + 8 * n) if kind == _COMPRESSED else body
                found[matrix.name] = _values(whole, matrix, n)
        missing = [name for name in shapes if name not in found]
        if missing:
            raise ValueError(f"must hold {', '.join(missing)}, got {', '.join(seen) or 'nothing'}")
        return found
    except (ValueError, zlib.error) as error:
        raise ValueError(f"{path}: {error}") from error


def _element(data: memoryview, at: int) -> tuple[int, memoryview, int]:
    """Type and content of the element at a byte, and where the next begins: tag, content, filling up to 8 bytes."""
    if at + 8 > len(data):
        raise ValueError(f"truncated: an element should begin at byte {at:,}")
    kind, n = struct.unpack_from("<II", data, at)
    start, end = at + 8, at + 8 + n + (0 if kind == _COMPRESSED else -n % 8)
    if kind >> 16:  # of at most 4 bytes, in the tag itself
        kind, n, start, end = kind & 0xFFFF, kind >> 16, at + 4, at + 8
    if start + n > len(data):
        raise ValueError(f"truncated: the element at byte {at:,} should have {n:,} bytes, found {len(data) - start:,}")
    return kind, data[start : start + n], end


def _inflate(body: memoryview, n_bytes: int) -> memoryview:
    """The first ``n_bytes`` of the unpacked body, or fewer where it is shorter."""
    return memoryview(zlib.decompressobj().decompress(body, n_bytes))


def _describe(data: memoryview, at: int) -> _Matrix:
    types, parts = [], []
    for _ in range(3):
        kind, body, at = _element(data, at)
        types.append(kind)
        parts.append(bytes(body))
    flags, sizes, name = parts
    if types != [_UINT32, _INT32, _INT8] or len(flags) != 8 or len(sizes) % 4:
        raise ValueError(f"a matrix must begin with its flags, sizes and name, got elements of types {types}")
    word = struct.unpack_from("<I", flags)[0]
    number = word & 0xFF
    kind_name = _CLASSES[number - 1] if 0 < number <= len(_CLASSES) else f"class {number}"
    shape = struct.unpack(f"<{len(sizes) // 4}i", sizes)
    return _Matrix(name.decode("latin-1"), "complex" if word & _COMPLEX else kind_name, shape, at)


def _check(matrix: _Matrix, expected: Shape, most: int) -> None:
    fits = len(matrix.shape) == len(expected) and all(
        n > 0 and rule in (None, n) for n, rule in zip(matrix.shape, expected, strict=True)
    )
    if not fits or matrix.kind not in _CLASSES[_REAL] or math.prod(matrix.shape) > most:
        lengths = " x ".join("N" if n is None else str(n) for n in expected)
        raise ValueError(
            f"{matrix.name} must be a real {lengths} matrix of at most {_MAX_NUMBERS:,} numbers, "
            f"with all before it, got {matrix.kind} {matrix.shape}"
        )


def _values(data: memoryview, matrix: _Matrix, n: int) -> Array:
    """Numbers of a matrix, column after column; MATLAB keeps them in the smallest type that holds them."""
    kind, body, _ = _element(data, matrix.values_at)
    dtype = np.dtype(_NUMBERS.get(kind, "V1"))
    if kind not in _NUMBERS or len(body) != n * dtype.itemsize:
        raise ValueError(f"{matrix.name} must have {n:,} numbers, got {len(body):,} bytes of type {kind}")
    return np.frombuffer(body, dtype).reshape(matrix.shape, order="F")
