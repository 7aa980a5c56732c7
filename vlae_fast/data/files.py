"""Reading array files that strangers wrote: nothing is unpickled, and sizes are checked before memory is taken."""

from __future__ import annotations

import gzip
import math
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

MAX_BYTES = 1 << 30  # of one array or file; the largest here is Fashion-MNIST's, 47 MB
MNIST_PIXELS = 784
CIFAR_SHAPE = (3, 32, 32)
_CIFAR_RECORD = 1 + math.prod(CIFAR_SHAPE)  # label, then the red, green and blue planes

Arrays = dict[str, "np.ndarray[Any, Any]"]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]


def read_bytes(path: Path) -> bytes:
    """The whole file, where that is not too much."""
    _check_size(path.stat().st_size, path)
    return path.read_bytes()


def read_npz(path: Path, names: Iterable[str], optional: Iterable[str] = ()) -> Arrays:
    """The integer arrays of these names in a .npz file; `optional` ones where they are there."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}
            missing = [name for name in names if f"{name}.npy" not in members]
            if missing:
                raise ValueError(f"must hold {', '.join(missing)}, got {', '.join(sorted(members)) or 'nothing'}")
            wanted = [name for name in (*names, *optional) if f"{name}.npy" in members]
            return {name: _read_npy(archive, members[f"{name}.npy"]) for name in wanted}
    except Exception as error:  # whatever zipfile stumbles over: OSError and struct.error among them
        raise ValueError(f"{path}: {error}") from error


def _read_npy(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray[Any, Any]:
    with archive.open(info) as file:
        if (version := np.lib.format.read_magic(file)) != (1, 0):
            raise ValueError(f"{info.filename}: format must be 1.0, got {'.'.join(map(str, version))}")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        n_bytes = math.prod(shape) * dtype.itemsize
        if dtype.kind not in "iu" or fortran or not 0 < n_bytes <= MAX_BYTES:
            raise ValueError(
                f"{info.filename}: must hold 1 to {MAX_BYTES:,} bytes of integers in C order, "
                f"but its header says {dtype} {shape}"
            )
        body = file.read(n_bytes + 1)  # ends where the member ends: memory is taken for what is there
    if len(body) != n_bytes:
        found = f"{len(body):,}" if len(body) < n_bytes else "more"
        raise ValueError(f"{info.filename}: must hold {n_bytes:,} bytes after its header, found {found}")
    return np.frombuffer(body, dtype).reshape(shape)


def read_amat(path: Path) -> Bytes:
    """Rows of 28x28 zeros and ones as text (binarized_mnist_*.amat) -> uint8 [N, 28, 28]."""
    text = np.frombuffer(read_bytes(path), np.uint8)
    rule = f"{path}: must be lines of {MNIST_PIXELS} zeros and ones with a space between them"
    if len(text) == 0 or len(text) % (2 * MNIST_PIXELS):
        raise ValueError(f"{rule} ({2 * MNIST_PIXELS} bytes a line), got {len(text):,} bytes")
    rows = text.reshape(-1, 2 * MNIST_PIXELS)
    digits, separators = rows[:, ::2], rows[:, 1::2]
    ends = np.array([ord(" ")] * (MNIST_PIXELS - 1) + [ord("\n")], np.uint8)
    wrong = ((digits & 0xFE) != ord("0")).any(1) | (separators != ends).any(1)
    if wrong.any():
        raise ValueError(f"{rule}, which line {1 + int(wrong.argmax())} is not")
    return (digits - ord("0")).reshape(-1, 28, 28)


def read_cifar(path: Path) -> tuple[Bytes, Bytes]:
    """A file of CIFAR-10's binary version -> images uint8 [N, 3, 32, 32] and labels uint8 [N]."""
    return _cifar(read_bytes(path), str(path))


def read_cifar_tar(path: Path, names: Iterable[str]) -> list[tuple[Bytes, Bytes]]:
    """The same from the archive of these files, which is not unpacked; in the order of the names."""
    found: dict[str, bytes] = {}
    wanted = set(names)
    try:
        with tarfile.open(path, "r|gz") as archive:
            for member in archive:
                name = Path(member.name).name
                if member.isreg() and name in wanted:
                    _check_size(member.size, f"{path}/{member.name}")
                    found[name] = cast(IO[bytes], archive.extractfile(member)).read()
                if len(found) == len(wanted):
                    break
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: damaged archive: {error}") from error
    missing = sorted(wanted - found.keys())
    if missing:
        raise ValueError(f"{path}: must hold {', '.join(sorted(wanted))}, but has no {', '.join(missing)}")
    return [_cifar(found[name], f"{path}/{name}") for name in names]


def _cifar(body: bytes, where: str) -> tuple[Bytes, Bytes]:
    if len(body) == 0 or len(body) % _CIFAR_RECORD:
        raise ValueError(f"{where}: must be records of {_CIFAR_RECORD:,} bytes, got {len(body):,} bytes")
    records = np.frombuffer(body, np.uint8).reshape(-1, _CIFAR_RECORD)
    labels = records[:, 0]
    if labels.max() > 9:
        raise ValueError(f"{where}: labels must be 0 to 9, got {int(labels.max())}")
    return records[:, 1:].reshape(-1, *CIFAR_SHAPE), labels


def _check_size(n_bytes: int, where: Path | str) -> None:
    if n_bytes > MAX_BYTES:
        raise ValueError(f"{where}: must be at most {MAX_BYTES:,} bytes, got {n_bytes:,}")
