"""Small data sets of random pixels, written to a folder in each of the forms that vlae_fast.data reads."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

scipy_io = pytest.importorskip("scipy.io")

Parts = dict[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]  # split -> images, labels


def parts(shape: tuple[int, ...], levels: int, classes: int, sizes: dict[str, int]) -> Parts:
    rng = np.random.default_rng(0)
    return {
        split: (rng.integers(0, levels, (n, *shape), np.uint8), rng.integers(0, classes, n, np.uint8))
        for split, n in sizes.items()
    }


BINARY = parts((28, 28), 2, 101, {"train": 5, "valid": 3, "test": 2})
OMNIGLOT = parts((28, 28), 256, 50, {"train": 1350, "test": 3})
CIFAR = parts((3, 32, 32), 256, 10, {"train": 20, "test": 4})


def packed(path: Path, first_label: int = 0, **change: Any) -> None:
    arrays: dict[str, Any] = {"shape": np.array([28, 28]), "class_names": np.array(["a"])}
    for split, (images, labels) in BINARY.items():
        arrays[f"{split}_bits"] = np.packbits(images.reshape(len(images), -1), axis=1)
        arrays[f"{split}_labels"] = labels + first_label
    np.savez_compressed(path, **{k: v for k, v in (arrays | change).items() if v is not None})


def static_mnist_npz(folder: Path) -> None:
    packed(folder / "binarized_mnist.npz")


def static_mnist_amat(folder: Path) -> None:
    for split, (images, _) in BINARY.items():
        np.savetxt(folder / f"binarized_mnist_{split}.amat", images.reshape(len(images), -1), fmt="%d")


def caltech_npz(folder: Path) -> None:
    packed(folder / "caltech101_silhouettes_28_split1.npz", first_label=1)


def caltech_mat(folder: Path) -> None:
    arrays = {"classnames": np.array(["accordion", "airplanes"], object)}
    for split, (images, labels) in BINARY.items():
        key = "val" if split == "valid" else split
        arrays[f"{key}_data"] = 1.0 - images.transpose(0, 2, 1).reshape(len(images), -1)
        arrays[f"{key}_labels"] = (labels + 1.0)[:, None]
    scipy_io.savemat(folder / "caltech101_silhouettes_28_split1.mat", arrays, do_compression=True)


def omniglot_npz(folder: Path) -> None:
    arrays = {f"{split}_images": images for split, (images, _) in OMNIGLOT.items()}
    arrays |= {f"{split}_alphabet": labels for split, (_, labels) in OMNIGLOT.items()}
    np.savez(folder / "omniglot_28.npz", **arrays)


def omniglot_mat(folder: Path) -> None:
    arrays = {}
    for prefix, (images, labels) in (("", OMNIGLOT["train"]), ("test", OMNIGLOT["test"])):
        arrays[f"{prefix}data"] = images.transpose(0, 2, 1).reshape(len(images), -1).T / 255
        arrays[f"{prefix}target"] = np.eye(50)[:, labels]
    scipy_io.savemat(folder / "chardata.mat", arrays)


def cifar_npz(folder: Path) -> None:
    arrays = {f"{split}_images": images.transpose(0, 2, 3, 1) for split, (images, _) in CIFAR.items()}
    np.savez(
        folder / "cifar10_small.npz", **arrays, **{f"{split}_labels": labels for split, (_, labels) in CIFAR.items()}
    )


def cifar_batches() -> dict[str, bytes]:
    def records(split: str, rows: slice) -> bytes:
        images, labels = CIFAR[split]
        return np.concatenate([labels[rows, None], images[rows].reshape(len(images[rows]), -1)], axis=1).tobytes()

    batches = {f"data_batch_{i + 1}.bin": records("train", slice(4 * i, 4 * i + 4)) for i in range(5)}
    return batches | {"test_batch.bin": records("test", slice(None))}


def cifar_files(folder: Path) -> None:
    for name, body in cifar_batches().items():
        (folder / name).write_bytes(body)


def cifar_tar(folder: Path) -> None:
    with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as archive:
        for name, body in reversed(cifar_batches().items()):
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))


def pickled(images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> bytes:
    """A batch as Python 2 wrote the published ones, opcode by opcode: strings are U and T, an array is rebuilt."""

    def text(body: bytes) -> bytes:
        return b"T" + len(body).to_bytes(4, "little") + body if len(body) > 255 else b"U" + bytes([len(body)]) + body

    def number(n: int) -> bytes:
        return b"J" + n.to_bytes(4, "little", signed=True)

    raw = images.reshape(len(images), -1)
    shape = number(raw.shape[0]) + number(raw.shape[1]) + b"\x86"
    dtype = b"cnumpy\ndtype\n" + text(b"u1") + b"K\0K\1\x87R(K\3" + text(b"|") + b"NNN" + 2 * number(-1) + b"K\0tb"
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85" + text(b"b") + b"\x87R"
    array = empty + b"(K\1" + shape + dtype + b"\x89" + text(raw.tobytes()) + b"tb"
    classes = b"](" + b"".join(b"K" + bytes([label]) for label in labels.tolist()) + b"e"
    return b"\x80\2}(" + text(b"labels") + classes + text(b"data") + array + b"u."


def pickled_batches() -> dict[str, bytes]:
    images, labels = CIFAR["train"]
    batches = {f"data_batch_{i + 1}": pickled(images[4 * i : 4 * i + 4], labels[4 * i : 4 * i + 4]) for i in range(5)}
    return batches | {"test_batch": pickled(*CIFAR["test"])}


def cifar_pickles(folder: Path) -> None:
    for name, body in pickled_batches().items():
        (folder / name).write_bytes(body)


def cifar_pickle_tar(folder: Path) -> None:
    with tarfile.open(folder / "cifar-10-python.tar.gz", "w:gz") as archive:
        for name, body in pickled_batches().items():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))


class Form(NamedTuple):
    name: str
    write: Callable[[Path], None]
    written: Parts
    note: str


FORMS = {
    "static npz": Form("static-mnist", static_mnist_npz, BINARY, "Larochelle"),
    "static amat": Form("static-mnist", static_mnist_amat, BINARY, "Larochelle"),
    "caltech npz": Form("caltech-silhouettes", caltech_npz, BINARY, "Marlin"),
    "caltech mat": Form("caltech-silhouettes", caltech_mat, BINARY, "Marlin"),
    "omniglot npz": Form("omniglot", omniglot_npz, OMNIGLOT, "not comparable to published numbers"),
    "omniglot mat": Form("omniglot", omniglot_mat, OMNIGLOT, "as in IWAE"),
    "cifar npz": Form("cifar10", cifar_npz, CIFAR, "not comparable to published numbers"),
    "cifar files": Form("cifar10", cifar_files, CIFAR, "the last of the training images"),
    "cifar tar": Form("cifar10", cifar_tar, CIFAR, "the last of the training images"),
    "cifar pickles": Form("cifar10", cifar_pickles, CIFAR, "the last of the training images"),
    "cifar pickle tar": Form("cifar10", cifar_pickle_tar, CIFAR, "the last of the training images"),
}
