"""Files that are damaged, hostile or not what they say: each is refused by an error that says which and why."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from cases.datasets import FORMS, packed, scipy_io

from vlae_fast import data


class Damage(NamedTuple):
    form: str
    file: str
    change: Callable[[Path], object]
    message: str


def npz(message: str, **change: Any) -> Damage:
    """Arrays of binarized_mnist.npz replaced, or removed where None."""
    return Damage("static npz", "binarized_mnist.npz", lambda path: packed(path, **change), message)


def claims(shape: tuple[int, ...], message: str) -> Damage:
    """train_bits of 98 bytes under a header that says `shape`."""

    def change(path: Path) -> None:
        packed(path, train_bits=None)
        with zipfile.ZipFile(path, "a") as archive, archive.open("train_bits.npy", "w") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            file.write(bytes(98))

    return Damage("static npz", "binarized_mnist.npz", change, message)


def amat(change: Callable[[bytes], bytes], message: str) -> Damage:
    def write(path: Path) -> None:
        path.write_bytes(change(path.read_bytes()))

    return Damage("static amat", "binarized_mnist_valid.amat", write, message)


def mat(form: str, file: str, message: str, **change: Any) -> Damage:
    def write(path: Path) -> None:
        arrays = {key: array for key, array in scipy_io.loadmat(path).items() if not key.startswith("__")}
        scipy_io.savemat(path, arrays | change)

    return Damage(form, file, write, message)


def omniglot(message: str, **change: Any) -> Damage:
    return mat("omniglot mat", "chardata.mat", message, **change)


def cifar(form: str, file: str, body: bytes, message: str) -> Damage:
    return Damage(form, file, lambda path: path.write_bytes(body), message)


SMALL = dict.fromkeys(("train_images", "test_images", "train_labels", "test_labels"), np.zeros((2, 32, 32), np.uint8))
TAR, BATCH = "cifar-10-binary.tar.gz", "data_batch_2.bin"

DAMAGES = {
    "no zip": Damage("static npz", "binarized_mnist.npz", lambda p: p.write_bytes(b"x"), "File is not a zip file"),
    "no member": npz("must hold test_bits, got class_names.npy, shape.npy", test_bits=None),
    "pickled": npz(
        r"test_bits.npy: must hold 1 to .* integers in C order, .* but its header says object \(1,\)",
        test_bits=np.array([print]),
    ),
    "floats": npz(r"but its header says float64 \(1, 98\)", test_bits=np.zeros((1, 98))),
    "claims what is not there": claims(
        (1 << 20, 98), r"train_bits.npy: must hold 102,760,448 bytes after its header, found 98"
    ),
    "has more than it claims": claims((90,), "must hold 90 bytes after its header, found more"),
    "claims too much": claims((1 << 40, 98), r"must hold 1 to 1,073,741,824 bytes"),
    "shape": npz(r"shape must be \[H, W\] of 1 to 4096 pixels, got \[28, 5000\]", shape=np.array([28, 5000])),
    "bits": npz(r"valid_bits must be uint8 \[N, 98\], got uint8 \(2, 97\)", valid_bits=np.zeros((2, 97), np.uint8)),
    "half of the labels": Damage(
        "static npz", "binarized_mnist.npz", lambda p: packed(p, valid_labels=None),
        "must hold train_labels, valid_labels, test_labels or none of them, but has no valid_labels",
    ),
    "labels": npz(r"train: labels must be one per image \(5\), got \(4,\)", train_labels=np.zeros(4, np.uint8)),
    "label 0": Damage(
        "caltech npz", "caltech101_silhouettes_28_split1.npz",
        lambda p: packed(p, train_labels=np.zeros(5, np.uint8)), "train: labels must be .* from 0 to 65535, got -1",
    ),
    "amat size": amat(lambda text: text[:-2], r"\(1568 bytes a line\), got 4,702 bytes"),
    "amat digit": amat(
        lambda text: text[:-2] + b"2\n", "lines of 784 zeros and ones with a space between them, which line 3 is not"
    ),
    "amat on one line": amat(lambda text: text.replace(b"\n", b" "), "which line 1 is not"),
    "amat missing": Damage(
        "static amat", "binarized_mnist_valid.amat", Path.unlink, "must hold .*, but has no binarized_mnist_valid.amat"
    ),
    "no mat": Damage(
        "omniglot mat", "chardata.mat", lambda p: p.write_bytes(b"\x89HDF" + bytes(200)),
        "chardata.mat: must be a little-endian MATLAB file of version 5",
    ),
    "mat complex": omniglot("data must be a real .*, got complex", data=np.full((784, 1350), 1j)),
    "truncated mat": Damage(
        "omniglot mat", "chardata.mat", lambda p: p.write_bytes(p.read_bytes()[:-8]), "truncated: the element at byte"
    ),
    "truncated compressed mat": Damage(
        "caltech mat", "caltech101_silhouettes_28_split1.mat", lambda p: p.write_bytes(p.read_bytes()[:-8]),
        "truncated: the element at byte",
    ),
    "mat shape": omniglot(
        r"data must be a real 784 x N matrix of at most .* numbers, .* got double \(4, 784\)", data=np.zeros((4, 784))
    ),
    "mat type": omniglot(r"data must be a real .*, got struct \(1, 1\)", data={"a": 1}),
    "mat levels": omniglot("data must be grey levels from 0 to 1", data=np.full((784, 1350), 2.0)),
    "mat nan": omniglot("testdata must be grey levels from 0 to 1", testdata=np.full((784, 3), np.nan)),
    "few drawings": omniglot(
        "must hold more training images than 1345, got 1345", data=np.zeros((784, 1345)), target=np.ones((50, 1345))
    ),
    "drawings without alphabet": omniglot(
        r"labels must be one per image \(1350\), got \(1351,\)", target=np.ones((50, 1351))
    ),
    "mat missing": Damage(
        "caltech mat", "caltech101_silhouettes_28_split1.mat", lambda p: scipy_io.savemat(p, {"x": 1}),
        "must hold train_data, .*, got x$",
    ),
    "mat not binary": mat(
        "caltech mat", "caltech101_silhouettes_28_split1.mat",
        "val_data must hold zeros and ones", val_data=np.full((3, 784), 0.5),
    ),
    "mat label": mat(
        "caltech mat", "caltech101_silhouettes_28_split1.mat",
        "test_labels must be classes from 1 to 101", test_labels=np.array([[np.nan], [1]]),
    ),
    "record": cifar("cifar files", BATCH, bytes(3072), "data_batch_2.bin: must be records of 3,073 bytes, got 3,072"),
    "class": cifar("cifar files", BATCH, b"\x0a" * 3073, "data_batch_2.bin: labels must be 0 to 9, got 10"),
    "batch missing": Damage("cifar files", BATCH, Path.unlink, "must hold .*, but has no data_batch_2.bin"),
    "no colours": Damage(
        "cifar npz", "cifar10_small.npz", lambda p: np.savez(p, **SMALL),
        r"train_images must be uint8 \[N, H, W, 3\], got uint8 \(2, 32, 32\)",
    ),
    "no tar": cifar("cifar tar", TAR, b"x", r"tar.gz: damaged archive: "),
    "truncated tar": Damage(
        "cifar tar", TAR, lambda p: p.write_bytes(p.read_bytes()[:40_000]), r"tar.gz: damaged archive: "
    ),
    "tar without batches": Damage(
        "cifar tar", TAR, lambda p: tarfile.open(p, "w:gz").close(), "must hold .*, but has no data_batch_1.bin"
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_damaged_files(tmp_path: Path, damage: Damage) -> None:
    form = FORMS[damage.form]
    form.write(tmp_path)
    damage.change(tmp_path / damage.file)
    with pytest.raises((ValueError, FileNotFoundError), match=damage.message):
        data.load(form.name, tmp_path)


@pytest.mark.parametrize("form", [f for key, f in FORMS.items() if "omniglot" not in key], ids=lambda form: form.name)
def test_any_byte_may_be_wrong(tmp_path: Path, form: Any) -> None:
    """Truncated anywhere, a byte changed anywhere: read, or refused by an error of ours; nothing else, no crash."""
    form.write(tmp_path)
    rng = np.random.default_rng(0)
    for path in sorted(tmp_path.iterdir())[:1]:
        whole = path.read_bytes()
        for i in range(60):
            at = int(rng.integers(0, min(len(whole), 400 if i % 2 else len(whole))))
            path.write_bytes(
                whole[:at] + bytes(rng.integers(0, 256, 1, np.uint8)) + whole[at + 1 :] if i % 3 else whole[:at]
            )
            try:
                data.load(form.name, tmp_path)
            except (ValueError, FileNotFoundError) as error:
                assert str(tmp_path) in str(error)
