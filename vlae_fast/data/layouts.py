"""The forms that data sets come in: each function reads one of them from a folder and says how it is split."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .cifar_pickle import cifar_of_pickle
from .files import MAX_BYTES, read_amat, read_bytes, read_cifar, read_cifar_tar, read_npz, read_tar
from .images import SPLITS, Images, Split
from .mat import read_mat

Array = np.ndarray[Any, Any]

AMAT_FILES = tuple(f"binarized_mnist_{split}.amat" for split in SPLITS)
STATIC_MNIST_NPZ = "binarized_mnist.npz"
CALTECH_MAT = "caltech101_silhouettes_28_split1.mat"
CALTECH_NPZ = "caltech101_silhouettes_28_split1.npz"
OMNIGLOT_MAT = "chardata.mat"
OMNIGLOT_NPZ = "omniglot_28.npz"
CIFAR_FILES = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")
CIFAR_TAR = "cifar-10-binary.tar.gz"
CIFAR_PICKLES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
CIFAR_PICKLE_TAR = "cifar-10-python.tar.gz"
CIFAR_NPZ = "cifar10_small.npz"

_STATIC_MNIST = "the fixed binarization of Larochelle & Murray 2011"
_CALTECH = "split 1 of Marlin et al. 2010"
_NOT_COMPARABLE = "not comparable to published numbers"
_OMNIGLOT_VALID, _OMNIGLOT_SEED = 1345, 123  # as held out by the IWAE paper's code (Burda et al. 2016)
_MAX_SIDE = 4096


class Part(NamedTuple):
    images: Array  # uint8 [N, H, W] or [N, C, H, W]
    labels: Array | None  # integers [N], from 0

    def rows(self, rows: Array) -> Part:
        return Part(self.images[rows], None if self.labels is None else self.labels[rows])


def static_mnist_npz(folder: Path, name: str, binarization: str) -> Images:
    path = folder / STATIC_MNIST_NPZ
    return _images(path, name, binarization, _packed_bits(path), _STATIC_MNIST)


def static_mnist_amat(folder: Path, name: str, binarization: str) -> Images:
    _require(folder, AMAT_FILES)
    parts = {split: Part(read_amat(folder / file), None) for split, file in zip(SPLITS, AMAT_FILES, strict=True)}
    return _images(folder, name, binarization, parts, _STATIC_MNIST)


def caltech_npz(folder: Path, name: str, binarization: str) -> Images:
    path = folder / CALTECH_NPZ
    return _images(path, name, binarization, _packed_bits(path, first_label=1), _CALTECH)


def caltech_mat(folder: Path, name: str, binarization: str) -> Images:
    """The file has the object 0 and its columns one after the other: here the object is 1, and upright."""
    path = folder / CALTECH_MAT
    keys: dict[Split, str] = {"train": "train", "valid": "val", "test": "test"}
    shapes = {f"{key}_data": (None, 784) for key in keys.values()} | {f"{k}_labels": (None, 1) for k in keys.values()}
    arrays = read_mat(path, shapes)
    parts = {}
    for split, key in keys.items():
        pixels = arrays[f"{key}_data"]
        if not ((pixels == 0) | (pixels == 1)).all():
            raise ValueError(f"{path}: {key}_data must hold zeros and ones")
        labels = arrays[f"{key}_labels"].reshape(-1)
        if not ((labels >= 1) & (labels <= 101)).all():
            raise ValueError(f"{path}: {key}_labels must be classes from 1 to 101")
        parts[split] = Part(1 - _upright(pixels.astype(np.uint8)), labels.astype(np.int64) - 1)
    return _images(path, name, binarization, parts, _CALTECH)


def omniglot_mat(folder: Path, name: str, binarization: str) -> Images:
    """A column of the file's matrix is an image, itself column after column; grey in [0, 1], rounded to k / 255."""
    path = folder / OMNIGLOT_MAT
    arrays = read_mat(
        path, {"data": (784, None), "target": (50, None), "testdata": (784, None), "testtarget": (50, None)}
    )
    parts = {}
    for split, prefix in (("train", ""), ("test", "test")):
        grey = arrays[f"{prefix}data"].T
        if not ((grey >= 0) & (grey <= 1)).all():
            raise ValueError(f"{path}: {prefix}data must be grey levels from 0 to 1")
        alphabets = arrays[f"{prefix}target"].argmax(0)
        parts[split] = Part(_upright(np.rint(grey * 255).astype(np.uint8)), alphabets)
    note = f"validation drawn with seed {_OMNIGLOT_SEED}, as in IWAE"
    return _omniglot(path, name, binarization, parts["train"], parts["test"], note)


def omniglot_npz(folder: Path, name: str, binarization: str) -> Images:
    """All drawings of Lake et al., reduced to 28x28: other pixels and another split than in published work."""
    path = folder / OMNIGLOT_NPZ
    keys = [(f"{split}_images", f"{split}_alphabet") for split in ("train", "test")]
    arrays = read_npz(path, [key for pair in keys for key in pair])
    train, test = (Part(_grey(path, images, arrays), arrays[alphabets]) for images, alphabets in keys)
    return _omniglot(path, name, binarization, train, test, f"{OMNIGLOT_NPZ}, split by drawer: {_NOT_COMPARABLE}")


def _omniglot(path: Path, name: str, binarization: str, train: Part, test: Part, note: str) -> Images:
    order = np.random.RandomState(_OMNIGLOT_SEED).permutation(len(train.images))
    return _images(path, name, binarization, _hold_out(path, train, test, _OMNIGLOT_VALID, order), note)


def cifar_files(folder: Path, name: str, binarization: str) -> Images:
    _require(folder, CIFAR_FILES)
    return _cifar(folder, name, binarization, [read_cifar(folder / file) for file in CIFAR_FILES])


def cifar_tar(folder: Path, name: str, binarization: str) -> Images:
    path = folder / CIFAR_TAR
    return _cifar(path, name, binarization, read_cifar_tar(path, CIFAR_FILES))


def cifar_pickles(folder: Path, name: str, binarization: str) -> Images:
    _require(folder, CIFAR_PICKLES)
    batches = [cifar_of_pickle(read_bytes(folder / file), str(folder / file)) for file in CIFAR_PICKLES]
    return _cifar(folder, name, binarization, batches)


def cifar_pickle_tar(folder: Path, name: str, binarization: str) -> Images:
    path = folder / CIFAR_PICKLE_TAR
    bodies = read_tar(path, CIFAR_PICKLES).items()
    return _cifar(path, name, binarization, [cifar_of_pickle(body, f"{path}/{file}") for file, body in bodies])


def _cifar(where: Path, name: str, binarization: str, batches: list[tuple[Array, Array]]) -> Images:
    train = Part(*(np.concatenate(arrays) for arrays in zip(*batches[:-1], strict=True)))
    parts = _hold_out(where, train, Part(*batches[-1]), len(train.images) // 10)
    return _images(where, name, binarization, parts, "validation: the last of the training images")


def cifar_npz(folder: Path, name: str, binarization: str) -> Images:
    path = folder / CIFAR_NPZ
    keys = [(f"{split}_images", f"{split}_labels") for split in ("train", "test")]
    arrays = read_npz(path, [key for pair in keys for key in pair])
    train, test = (Part(_rgb(path, images, arrays), arrays[labels]) for images, labels in keys)
    note = f"{CIFAR_NPZ}, the first images of CIFAR-10: {_NOT_COMPARABLE}"
    return _images(path, name, binarization, _hold_out(path, train, test, len(train.images) // 10), note)


def _packed_bits(path: Path, *, first_label: int = 0) -> dict[Split, Part]:
    """{train,valid,test}_bits [N, ceil(H W / 8)] as numpy packs them, their labels if any, and shape [H, W]."""
    bits, labels = [f"{split}_bits" for split in SPLITS], [f"{split}_labels" for split in SPLITS]
    arrays = read_npz(path, ["shape", *bits], labels)
    height_width = arrays["shape"].tolist()
    if arrays["shape"].shape != (2,) or not all(1 <= side <= _MAX_SIDE for side in height_width):
        raise ValueError(f"{path}: shape must be [H, W] of 1 to {_MAX_SIDE} pixels, got {height_width}")
    pixels = height_width[0] * height_width[1]
    has_labels = any(name in arrays for name in labels)
    if has_labels and (missing := [name for name in labels if name not in arrays]):
        raise ValueError(f"{path}: must hold {', '.join(labels)} or none of them, but has no {', '.join(missing)}")
    parts, n_bytes = {}, 0
    for split, key, label in zip(SPLITS, bits, labels, strict=True):
        packed = arrays[key]
        if packed.dtype != np.uint8 or packed.ndim != 2 or packed.shape[1] != -(-pixels // 8):
            raise ValueError(f"{path}: {key} must be uint8 [N, {-(-pixels // 8)}], got {packed.dtype} {packed.shape}")
        n_bytes += len(packed) * pixels
        if n_bytes > MAX_BYTES:
            raise ValueError(f"{path}: images must be at most {MAX_BYTES:,} bytes, got {n_bytes:,} up to {key}")
        _check_labels(path, split, len(packed), arrays[label] if has_labels else None)
        images = np.unpackbits(packed, axis=1, count=pixels).reshape(-1, *height_width)
        parts[split] = Part(images, arrays[label].astype(np.int64) - first_label if has_labels else None)
    return parts


def _grey(path: Path, key: str, arrays: Mapping[str, Array]) -> Array:
    found = arrays[key]
    if found.dtype != np.uint8 or found.ndim != 3:
        raise ValueError(f"{path}: {key} must be uint8 [N, H, W], got {found.dtype} {found.shape}")
    return found


def _rgb(path: Path, key: str, arrays: Mapping[str, Array]) -> Array:
    found = arrays[key]
    if found.dtype != np.uint8 or found.ndim != 4 or found.shape[3] != 3:
        raise ValueError(f"{path}: {key} must be uint8 [N, H, W, 3], got {found.dtype} {found.shape}")
    return found.transpose(0, 3, 1, 2)


def _upright(columns: Array) -> Array:
    """[N, 784] with the columns of an image one after the other -> [N, 28, 28]."""
    return columns.reshape(-1, 28, 28).transpose(0, 2, 1)


def _hold_out(where: Path, train: Part, test: Part, n_valid: int, order: Array | None = None) -> dict[Split, Part]:
    """The last `n_valid` training images, in `order`, become the validation split."""
    n = len(train.images)
    if not 0 < n_valid < n:
        raise ValueError(f"{where}: must hold more training images than {max(n_valid, 9)}, got {n}")
    _check_labels(where, "train", n, train.labels)
    rows = np.arange(n) if order is None else order
    return {"train": train.rows(rows[:-n_valid]), "valid": train.rows(rows[-n_valid:]), "test": test}


def _check_labels(where: Path, split: str, n: int, labels: Array | None) -> None:
    """Checks labels before they become int64: an array without images might hold too many."""
    if labels is not None and labels.shape != (n,):
        raise ValueError(f"{where}: {split}: labels must be one per image ({n}), got {labels.shape}")


def _images(where: Path, name: str, binarization: str, parts: Mapping[Split, Part], note: str) -> Images:
    for split, part in parts.items():
        _check_labels(where, split, len(part.images), part.labels)
    pixels = {str(split): _tensor(part.images) for split, part in parts.items()}
    labels = {str(split): _tensor(part.labels).long() for split, part in parts.items() if part.labels is not None}
    said = " / ".join(f"{len(pixels[split]):,} {split}" for split in SPLITS) + f" ({note})"
    try:
        return Images(name, **pixels, split=said, binarization=binarization, labels=labels or None)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _tensor(array: Array) -> Tensor:
    tensor = torch.from_numpy(np.array(array, order="C"))  # a copy: what was read from a file cannot be written to
    return tensor[:, None] if tensor.dim() == 3 else tensor


def _require(folder: Path, files: tuple[str, ...]) -> None:
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise FileNotFoundError(f"data_dir: {folder} must hold {', '.join(files)}, but has no {', '.join(missing)}")
