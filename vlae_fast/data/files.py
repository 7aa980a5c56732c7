"""Reading array files that strangers wrote: nothing is unpickled, and sizes are checked before memory is taken."""

from __future__ import annotations

import gzip
import math
import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

MAX_BYTES = 1 << 30  # of one file, and of what is unpacked of it; EMNIST, the largest in use, has 0.55 GB
_MAX_DIRECTORY = 1 << 20  # of a zip; a few dozen entries have a few thousand bytes
_ZIP_END, _ZIP64_LOCATOR = 22, 20  # bytes of the records at a zip's end
MNIST_PIXELS = 784
CIFAR_SHAPE = (3, 32, 32)
_CIFAR_RECORD = 1 + math.prod(CIFAR_SHAPE)  # label, then the red, green and blue planes

Arrays = dict[str, "np.ndarray[Any, Any]"]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]


def read_bytes(path: Path) -> bytes:
    """The whole file, where that is not too much."""
    with path.open("rb") as file:
        if (size := os.fstat(file.fileno()).st_size) > MAX_BYTES:
            raise ValueError(f"{path}: must be at most {MAX_BYTES:,} bytes, got {size:,}")
        return file.read(size)  # memory for so many bytes is taken at once


def read_npz(path: Path, names: Iterable[str], optional: Iterable[str] = ()) -> Arrays:
    """The integer arrays of these names in a .npz file; `optional` ones where they are there."""
    try:
        check_zip(path)
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}
            missing = [name for name in names if f"{name}.npy" not in members]
            if missing:
                raise ValueError(f"must hold {', '.join(missing)}, got {', '.join(sorted(members)) or 'nothing'}")
            wanted = [name for name in (*names, *optional) if f"{name}.npy" in members]
            arrays: Arrays = {}
            for name in wanted:
                taken = sum(array.nbytes for array in arrays.values())
                arrays[name] = _read_npy(archive, members[f"{name}.npy"], MAX_BYTES - taken)
            return arrays
    except Exception as error:  # whatever zipfile stumbles over: OSError and struct.error among them
        raise ValueError(f"{path}: {error}") from error


def npz_names(path: Path) -> list[str]:
    """The names of the arrays in a .npz file, in order."""
    try:
        check_zip(path)
        with zipfile.ZipFile(path) as archive:
            return sorted(name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy"))
    except Exception as error:  # as above
        raise ValueError(f"{path}: {error}") from error


def check_zip(path: Path) -> None:
    """Bounds the directory of a zip before zipfile reads it: its entries take ten times their bytes in memory.

    The record at the file's end that gives the directory's size is found as zipfile finds it. A file with a 64-bit
    record, which zipfile would believe instead, is refused: it has no use below 4 GiB.
    """
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - (1 << 16) - _ZIP_END - _ZIP64_LOCATOR))
        tail = file.read()
    bare = tail[-_ZIP_END:]
    start = len(tail) - _ZIP_END if bare[:4] == b"PK\5\6" and bare[-2:] == b"\0\0" else tail.rfind(b"PK\5\6")
    if start < 0:
        return  # zipfile says that it is no zip file
    if tail[: max(0, start)][-_ZIP64_LOCATOR:][:4] == b"PK\6\7":
        raise ValueError("must have no 64-bit directory")
    size = int.from_bytes(tail[start + 12 : start + 16], "little")
    if size > _MAX_DIRECTORY:
        raise ValueError(f"must have a directory of at most {_MAX_DIRECTORY:,} bytes, got {size:,}")


def _read_npy(archive: zipfile.ZipFile, info: zipfile.ZipInfo, most: int) -> np.ndarray[Any, Any]:
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others take memory on the file's word
        raise ValueError(f"{info.filename}: must be stored or deflated, got method {info.compress_type}")
    with archive.open(info) as file:
        if (version := np.lib.format.read_magic(file)) != (1, 0):
            raise ValueError(f"{info.filename}: format must be 1.0, got {'.'.join(map(str, version))}")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        n_bytes = math.prod(shape) * dtype.itemsize
        if dtype.kind not in "iu" or fortran or not 0 < n_bytes <= most:
            raise ValueError(
                f"{info.filename}: must hold 1 to {MAX_BYTES:,} bytes of integers in C order, with all "
                f"arrays before it, but its header says {dtype} {shape}"
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
    """Images and labels as in `read_cifar`, from the archive of these files, not unpacked, in the names' order."""
    return [_cifar(body, f"{path}/{name}") for name, body in read_tar(path, names).items()]


def read_tar(path: Path, names: Iterable[str]) -> dict[str, bytes]:
    """The files of these names in a .tar.gz archive, in the names' order, wherever in it they lie."""
    found: dict[str, bytes] = {}
    wanted = set(names)
    try:
        with gzip.open(path) as file, tarfile.open(fileobj=cast(IO[bytes], _Bounded(file, path)), mode="r|") as archive:
            for member in archive:
                name = Path(member.name).name
                if member.isreg() and name in wanted:
                    if member.issparse() or member.size > MAX_BYTES:  # a few bytes of a sparse one claim gigabytes
                        rule = f"must be a plain file of at most {MAX_BYTES:,} bytes"
                        kind = "sparse" if member.issparse() else "plain"
                        raise ValueError(f"{path}: {name} {rule}, got a {kind} one of {member.size:,}")
                    found[name] = cast(IO[bytes], archive.extractfile(member)).read()
                if len(found) == len(wanted):
                    break
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: damaged archive: {error}") from error
    missing = sorted(wanted - found.keys())
    if missing:
        raise ValueError(f"{path}: must hold {', '.join(sorted(wanted))}, but has no {', '.join(missing)}")
    return {name: found[name] for name in names}


class _Bounded:
    """A stream that raises where it is too long: its reader may then believe the sizes in it."""

    def __init__(self, stream: gzip.GzipFile, where: Path) -> None:
        self.stream, self.where, self.size = stream, where, 0

    def read(self, n: int) -> bytes:
        chunk = self.stream.read(n)
        self.size += len(chunk)
        if self.size > MAX_BYTES:
            raise ValueError(f"{self.where}: must be at most {MAX_BYTES:,} bytes when unpacked, got more")
        return chunk


def _cifar(body: bytes, where: str) -> tuple[Bytes, Bytes]:
    if len(body) == 0 or len(body) % _CIFAR_RECORD:
        raise ValueError(f"{where}: must be records of {_CIFAR_RECORD:,} bytes, got {len(body):,} bytes")
    records = np.frombuffer(body, np.uint8).reshape(-1, _CIFAR_RECORD)
    labels = records[:, 0]
    if labels.max() > 9:
        raise ValueError(f"{where}: labels must be 0 to 9, got {int(labels.max())}")
    return records[:, 1:].reshape(-1, *CIFAR_SHAPE), labels
