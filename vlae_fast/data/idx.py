"""IDX files: MNIST and its relatives."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import IO, cast

import torch
from torch import Tensor

from .files import MAX_BYTES
from .images import Images

TRAIN_IMAGES = "train-images-idx3-ubyte"
_IDX_FILES = {
    "train images": TRAIN_IMAGES,
    "test images": "t10k-images-idx3-ubyte",
    "train labels": "train-labels-idx1-ubyte",
    "test labels": "t10k-labels-idx1-ubyte",
}
_MAX_IMAGE_SIDE = 4096


def idx_folder(folder: Path, name: str, binarization: str = "dynamic") -> Images:
    """MNIST's four IDX files (labels optional) of a folder, as a data set of that name; the last sixth of the training
    images becomes the validation split.
    """
    found = {what: _find(folder, stem) for what, stem in _IDX_FILES.items()}
    needed = ["train images", "test images"]
    if found["train labels"] or found["test labels"]:  # half of the labels would be dropped in silence
        needed += ["train labels", "test labels"]
    missing = [what for what in needed if found[what] is None]
    if missing:
        names = ", ".join(f"{_IDX_FILES[what]}[.gz]" for what in missing)
        raise FileNotFoundError(
            f"data_dir: no IDX files with the {' and '.join(missing)} in {folder}: looked for {names}"
        )
    return idx_images(folder, name, binarization, {w: read_idx(path) for w, path in found.items() if path is not None})


def idx_images(folder: Path, name: str, binarization: str, tensors: dict[str, Tensor]) -> Images:
    """What four IDX files hold ("train images", "test labels", ...), as a data set; see `idx_folder`."""
    for part in ("train", "test"):
        _check_pair(folder, part, tensors[f"{part} images"], tensors.get(f"{part} labels"))
    images, test = tensors["train images"][:, None], tensors["test images"][:, None]
    if len(images) < 2:
        raise ValueError(
            f"{folder}: must hold at least 2 training images (1 is kept for validation), got {len(images)}"
        )
    n_valid = max(1, len(images) // 6)
    n_train = len(images) - n_valid
    labels = None
    if "train labels" in tensors:
        by_row = tensors["train labels"].long()
        labels = {"train": by_row[:n_train], "valid": by_row[n_train:], "test": tensors["test labels"].long()}
    split = f"{n_train:,} train / {n_valid:,} valid (the last of the training file) / {len(test):,} test"
    return Images(name, images[:n_train], images[n_train:], test, split, binarization, labels)


def read_idx(path: str | Path) -> Tensor:
    """One IDX file of unsigned bytes, gzipped or not -> uint8 tensor of the shape in its header.

    Raises:
        ValueError: a wrong magic number, a size beyond the bounds, a file shorter or longer than its header.
    """
    path = Path(path)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return read_idx_stream(cast(IO[bytes], file), path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: damaged gzip data: {error}") from error


def read_idx_stream(file: IO[bytes] | gzip.GzipFile, path: Path) -> Tensor:
    """One IDX file that is open; `path` is what messages call it."""
    magic = file.read(4)
    if len(magic) < 4 or magic[:3] != b"\x00\x00\x08" or magic[3] not in (1, 3):
        raise ValueError(
            f"{path}: magic number must be 0x00000803 (images) or 0x00000801 (labels), got 0x{magic.hex() or '(empty)'}"
        )
    header = file.read(4 * magic[3])
    if len(header) < 4 * magic[3]:
        raise ValueError(f"{path}: header is truncated: expected {4 + 4 * magic[3]} bytes, found {4 + len(header)}")
    shape = [int.from_bytes(header[i : i + 4], "big") for i in range(0, len(header), 4)]
    n_bytes = math.prod(shape)
    if n_bytes == 0 or n_bytes > MAX_BYTES or any(side > _MAX_IMAGE_SIDE for side in shape[1:]):
        raise ValueError(
            f"{path}: must hold 1 to {MAX_BYTES:,} bytes of images of at most {_MAX_IMAGE_SIDE} pixels a side, "
            f"but its header says {shape}"
        )
    body = bytearray()  # grown by what is there: read(n) would take n bytes on the header's word
    while len(body) <= n_bytes and (chunk := file.read(1 << 20)):
        body += chunk
    if len(body) != n_bytes:
        found = f"found {len(body):,}" if len(body) < n_bytes else "found more"
        state = "truncated" if len(body) < n_bytes else "too long"
        raise ValueError(f"{path}: {state}: expected {n_bytes:,} bytes after the header ({shape}), {found}")
    return torch.frombuffer(body, dtype=torch.uint8).reshape(shape)


def spellings(stem: str) -> tuple[str, ...]:
    """Unpacked or gzipped, "...-images-idx3-ubyte" or "...-images.idx3-ubyte": all are in circulation."""
    return tuple(f"{name}{end}" for name in (stem, stem.replace("-idx", ".idx")) for end in ("", ".gz"))


def _find(folder: Path, stem: str) -> Path | None:
    return next((folder / name for name in spellings(stem) if (folder / name).is_file()), None)


def _check_pair(folder: Path, part: str, images: Tensor, labels: Tensor | None) -> None:
    if images.dim() != 3:
        raise ValueError(f"{folder}: {part} images must be [N, H, W], got {tuple(images.shape)}")
    if labels is not None and tuple(labels.shape) != (len(images),):
        raise ValueError(f"{folder}: {part} labels must be one per image ({len(images)}), got {tuple(labels.shape)}")
