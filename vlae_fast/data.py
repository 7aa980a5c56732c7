"""Binary image data: the embedded digits, IDX files (MNIST and its relatives), and how grey becomes black and white.

Grey levels stay bytes in memory (0..255, [N, 1, H, W]); a batch becomes float32 zeros and ones when it is drawn, so
dynamic binarization costs no second copy of the data.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ._extras import require

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
BINARIZATIONS = ("dynamic", "threshold")

_IDX_FILES = {
    "train images": "train-images-idx3-ubyte",
    "test images": "t10k-images-idx3-ubyte",
    "train labels": "train-labels-idx1-ubyte",
    "test labels": "t10k-labels-idx1-ubyte",
}
_MAX_IDX_BYTES = 1 << 32  # a header may claim anything; MNIST's largest file is 47 MB
_MAX_IMAGE_SIDE = 4096


@dataclass(frozen=True)
class Images:
    """Three splits of grey images, uint8 0..255, [N, 1, H, W], and the rule that makes them binary.

    binarization "dynamic": each pixel is 1 with probability grey / 255, redrawn each time a batch is drawn.
    binarization "threshold": a pixel is 1 where grey / 255 >= 0.5, always.
    """

    name: str
    train: Tensor
    valid: Tensor
    test: Tensor
    split: str
    binarization: str = "dynamic"
    labels: dict[str, Tensor] | None = None  # split -> int64 [N]

    def __post_init__(self) -> None:
        if self.binarization not in BINARIZATIONS:
            raise ValueError(f"binarization: must be one of {', '.join(BINARIZATIONS)}, got {self.binarization!r}")
        for split in SPLITS:
            grey = self.grey(split)
            if grey.dtype != torch.uint8 or grey.dim() != 4 or grey.shape[1] != 1 or grey.shape[0] == 0:
                raise ValueError(
                    f"{split}: must be uint8 [N, 1, H, W] with N > 0, got {grey.dtype} {tuple(grey.shape)}"
                )
            if grey.shape[1:] != self.train.shape[1:]:
                size, expected = tuple(grey.shape[2:]), tuple(self.train.shape[2:])
                raise ValueError(f"{split}: images must be of the training images' size {expected}, got {size}")

    @property
    def image_size(self) -> tuple[int, int]:
        return self.train.shape[2], self.train.shape[3]

    @property
    def dims(self) -> int:
        """Pixels per image: what bits per dimension are divided by."""
        return math.prod(self.train.shape[1:])

    def grey(self, split: Split) -> Tensor:
        if split not in SPLITS:
            raise ValueError(f"split: must be one of {', '.join(SPLITS)}, got {split!r}")
        return cast(Tensor, getattr(self, split))

    def batches(
        self, split: Split, batch_size: int, *, generator: torch.Generator, shuffle: bool = False
    ) -> Iterator[Tensor]:
        """Binary float32 batches [<= batch_size, 1, H, W]; order and pixels are a function of the generator's state."""
        if batch_size < 1:
            raise ValueError(f"batch_size: must be at least 1, got {batch_size}")
        grey = self.grey(split)
        order = torch.randperm(len(grey), generator=generator) if shuffle else torch.arange(len(grey))
        for rows in order.split(batch_size):
            yield binarize(grey[rows], self.binarization, generator)

    def fixed(self, split: Split, seed: int = 0) -> Tensor:
        """The whole split, binarized once: the same images for the same seed."""
        return binarize(self.grey(split), self.binarization, torch.Generator().manual_seed(seed))


def binarize(grey: Tensor, how: str, generator: torch.Generator | None = None) -> Tensor:
    """uint8 0..255 -> float32 zeros and ones of the same shape.

    Equivalent to: torch.bernoulli(grey / 255, generator=generator) for "dynamic", (grey / 255 >= 0.5) for "threshold".
    """
    if how == "threshold":
        return (grey >= 128).float()
    if how == "dynamic":
        return torch.bernoulli(grey.float() / 255, generator=generator)
    raise ValueError(f"binarization: must be one of {', '.join(BINARIZATIONS)}, got {how!r}")


def load(name: str | None = None, data_dir: str | Path | None = None, binarization: str | None = None) -> Images:
    """The data set `name`: "digits" needs no file, any other name reads IDX files from `data_dir`.

    Without a name, the IDX files of `data_dir` if there is one, else the digits. If `data_dir` has a folder of that
    name, the files are looked for there. binarization defaults to "threshold" for the digits, else to "dynamic".

    Raises: ValueError for an unknown name or a bad file, FileNotFoundError where a folder or file is missing.
    """
    if data_dir is None and name in (None, "digits"):
        return digits(binarization or "threshold")
    if data_dir is None:
        raise ValueError(f'data: {name!r} is not embedded ("digits" is): say where its IDX files are with data_dir')
    if name == "digits":
        raise ValueError(f'data: "digits" is embedded and takes no data_dir, got {str(data_dir)!r}')
    folder = Path(data_dir)
    if not folder.is_dir():
        raise FileNotFoundError(f"data_dir: must be an existing folder, got {str(data_dir)!r}")
    if name is not None and (folder / name).is_dir():
        folder = folder / name
    return idx_folder(folder, name or folder.resolve().name, binarization or "dynamic")


def digits(binarization: str = "threshold", seed: int = 0) -> Images:
    """scikit-learn's 1,797 handwritten digits of 8x8, enlarged to 24x24 with a margin of 2: no download, 28x28.

    Bicubic enlargement and the threshold at one half give the strokes back their smooth edges.
    """
    bunch = require("sklearn.datasets").load_digits()
    small = torch.from_numpy(bunch.images).float()[:, None] / 16  # [1797, 1, 8, 8]
    large = F.interpolate(small, (24, 24), mode="bicubic", align_corners=False).clamp(0, 1)
    grey = F.pad(large, (2, 2, 2, 2)).mul(255).round().to(torch.uint8)
    order = torch.randperm(len(grey), generator=torch.Generator().manual_seed(seed))
    rows = dict(zip(SPLITS, order.split([1500, 100, 197]), strict=True))
    labels = torch.from_numpy(bunch.target).long()
    split = f"1,500 train / 100 valid / 197 test, drawn with seed {seed}"
    parts = {k: grey[r] for k, r in rows.items()}
    return Images(
        "digits", **parts, split=split, binarization=binarization, labels={k: labels[r] for k, r in rows.items()}
    )


def idx_folder(folder: Path, name: str, binarization: str = "dynamic") -> Images:
    """MNIST's four IDX files (labels optional); the last sixth of the training images becomes the validation split."""
    found = {what: _find(folder, stem) for what, stem in _IDX_FILES.items()}
    missing = [what for what in ("train images", "test images") if found[what] is None]
    if missing:
        names = ", ".join(f"{_IDX_FILES[what]}[.gz]" for what in missing)
        raise FileNotFoundError(
            f"data_dir: no IDX files with the {' and '.join(missing)} in {folder}: looked for {names}"
        )
    tensors = {what: read_idx(path) for what, path in found.items() if path is not None}
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
    if "train labels" in tensors and "test labels" in tensors:
        by_row = tensors["train labels"].long()
        labels = {"train": by_row[:n_train], "valid": by_row[n_train:], "test": tensors["test labels"].long()}
    split = f"{n_train:,} train / {n_valid:,} valid (the last of the training file) / {len(test):,} test"
    return Images(name, images[:n_train], images[n_train:], test, split, binarization, labels)


def read_idx(path: str | Path) -> Tensor:
    """One IDX file of unsigned bytes, gzipped or not -> uint8 tensor of the shape in its header.

    Raises: ValueError for a wrong magic number, a size beyond the bounds, a file shorter or longer than its header.
    """
    path = Path(path)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return _read_idx(cast(IO[bytes], file), path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: damaged gzip data: {error}") from error


def _read_idx(file: IO[bytes], path: Path) -> Tensor:
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
    if n_bytes == 0 or n_bytes > _MAX_IDX_BYTES or any(side > _MAX_IMAGE_SIDE for side in shape[1:]):
        raise ValueError(
            f"{path}: must hold 1 to {_MAX_IDX_BYTES:,} bytes of images of at most {_MAX_IMAGE_SIDE} pixels a side, "
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


def _find(folder: Path, stem: str) -> Path | None:
    """Unpacked or gzipped, "...-images-idx3-ubyte" or "...-images.idx3-ubyte": both spellings are in circulation."""
    spellings = (stem, stem.replace("-idx", ".idx"))
    paths = (folder / f"{spelling}{end}" for spelling in spellings for end in ("", ".gz"))
    return next((path for path in paths if path.is_file()), None)


def _check_pair(folder: Path, part: str, images: Tensor, labels: Tensor | None) -> None:
    if images.dim() != 3:
        raise ValueError(f"{folder}: {part} images must be [N, H, W], got {tuple(images.shape)}")
    if labels is not None and tuple(labels.shape) != (len(images),):
        raise ValueError(f"{folder}: {part} labels must be one per image ({len(images)}), got {tuple(labels.shape)}")
