"""EMNIST in its six parts, KMNIST, and CIFAR-10's pickles: what stands in the files, and what is refused."""

from __future__ import annotations

import gzip
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases.datasets import CIFAR, pickled

from vlae_fast import data
from vlae_fast.data.cifar_pickle import cifar_of_pickle

IMAGES = torch.randint(256, (18, 5, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
LETTERS = torch.arange(18) % 3 + 1


def idx_bytes(tensor: torch.Tensor) -> bytes:
    header = bytes([0, 0, 8, tensor.dim()]) + b"".join(n.to_bytes(4, "big") for n in tensor.shape)
    return header + bytes(tensor.flatten().tolist())


def published(name: str) -> dict[str, bytes]:
    """The four files of a data set, with an image's columns one after the other."""
    files = {}
    for split, n in (("train", 12), ("test", 6)):
        files[f"{name}-{split}-images-idx3-ubyte"] = idx_bytes(IMAGES[:n].transpose(1, 2))
        files[f"{name}-{split}-labels-idx1-ubyte"] = idx_bytes(LETTERS[:n])
    return files


@pytest.mark.parametrize("form", ["archive", "files", "gz"])
def test_emnist_is_upright_and_letters_count_from_0(form: str, tmp_path: Path) -> None:
    for name in ("emnist-letters", "emnist-digits"):
        if form == "archive":
            with zipfile.ZipFile(tmp_path / "gzip.zip", "w") as archive:
                for file, body in published(name).items():
                    archive.writestr(f"gzip/{file}.gz", gzip.compress(body))
        else:
            (tmp_path / "EMNIST" / "raw").mkdir(parents=True, exist_ok=True)
            for file, body in published(name).items():
                packed = gzip.compress(body) if form == "gz" else body
                (tmp_path / "EMNIST" / "raw" / f"{file}{'.gz' if form == 'gz' else ''}").write_bytes(packed)
        images = data.load(name, tmp_path)
        assert images.image_size == (5, 4) and images.name == name and images.binarization == "dynamic"
        assert torch.cat([images.train, images.valid])[:, 0].equal(IMAGES[:12])
        assert images.labels is not None
        assert images.labels["test"].equal(LETTERS[:6] - (1 if name == "emnist-letters" else 0))


def test_wrong_emnist_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no files of emnist-letters in"):
        data.load("emnist-letters", tmp_path)
    with zipfile.ZipFile(tmp_path / "gzip.zip", "w") as archive:
        for file, body in published("emnist-digits").items():
            archive.writestr(f"gzip/{file}.gz", gzip.compress(body)[:-12])
    with pytest.raises(ValueError, match=r"gzip\.zip: must hold emnist-letters-train-images-idx3-ubyte\.gz"):
        data.load("emnist-letters", tmp_path)
    with pytest.raises(ValueError, match=r"gzip\.zip: "):
        data.load("emnist-digits", tmp_path)
    (tmp_path / "emnist-letters-train-images-idx3-ubyte").write_bytes(idx_bytes(IMAGES))
    with pytest.raises(FileNotFoundError, match="no train labels of emnist-letters in"):
        data.load("emnist-letters", tmp_path)


def test_kmnist_has_a_folder_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "KMNIST" / "raw").mkdir(parents=True)
    for split, n in (("train", 12), ("t10k", 6)):
        for what, tensor in (("images-idx3", IMAGES), ("labels-idx1", LETTERS)):
            (tmp_path / "KMNIST" / "raw" / f"{split}-{what}-ubyte").write_bytes(idx_bytes(tensor[:n]))
    images = data.load("kmnist", tmp_path)
    assert images.name == "kmnist" and images.test[:, 0].equal(IMAGES[:6])


def test_pickles_of_python_3_are_read_too() -> None:
    images, labels = CIFAR["test"]
    for keys in (("data", "labels"), (b"data", b"labels")):
        body = pickle.dumps(dict(zip(keys, (images.reshape(4, -1), labels.tolist()), strict=True)), protocol=4)
        found = cifar_of_pickle(body, "x")
        assert (found[0] == images).all() and (found[1] == labels).all()


class Calls:
    def __reduce__(self) -> Any:
        return Path.mkdir, (Path("made-by-a-pickle"),)


PICKLES = {
    "a call": (pickle.dumps({"data": Calls()}), "found the name pathlib"),
    "nothing": (b"", "must be a pickled batch of CIFAR-10"),
    "a list": (pickle.dumps([1]), "must hold a dict, got list"),
    "no array": (pickle.dumps({"data": [1], "labels": [1]}), "data must be an array"),
    "numbers": (
        pickle.dumps({"data": np.zeros((1, 3072)), "labels": [1]}),
        "data must be bytes .* in C order",
    ),
    "columns": (
        pickle.dumps({"data": np.zeros((1, 3071), np.uint8), "labels": [1]}),
        "data must be bytes",
    ),
    "classes": (pickled(CIFAR["test"][0], np.array([1, 2, 3, 10])), "labels must be a list of classes from 0 to 9"),
    "much memory": (b"\x80\2r\xff\xff\xff\x7fN.", "must hold a dict|must be a pickled"),  # an index of the memo
}


@pytest.mark.parametrize(("body", "message"), PICKLES.values(), ids=PICKLES.keys())
def test_a_pickle_runs_nothing(body: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        cifar_of_pickle(body, "x")
    assert not list(tmp_path.iterdir())
