"""The forms that data sets come in: what was written is what is read, whatever the form."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from cases.datasets import FORMS, Form, omniglot_mat, omniglot_npz

from vlae_fast import data

REAL = os.environ.get("VLAE_FAST_DATA")


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_what_was_written_is_read(tmp_path: Path, form: Form) -> None:
    form.write(tmp_path)
    images = data.load(form.name, tmp_path)
    assert images.name == form.name and form.note in images.split
    assert images.binarization == {"omniglot": "dynamic", "cifar10": "none"}.get(form.name, "fixed")
    expected = dict(form.written)
    if "valid" not in expected:  # the last training images, for OMNIGLOT after the shuffle of the IWAE paper
        n, n_valid = (1350, 1345) if form.name == "omniglot" else (20, 2)
        order = np.random.RandomState(123).permutation(n) if form.name == "omniglot" else np.arange(n)
        pixels, labels = expected["train"]
        for split, rows in (("train", order[: n - n_valid]), ("valid", order[n - n_valid :])):
            expected[split] = pixels[rows], labels[rows]
    for split in data.SPLITS:
        pixels, labels = (torch.from_numpy(array) for array in expected[split])
        assert images.pixels(split).equal(pixels.reshape(len(pixels), images.channels, *images.image_size))
        if form is FORMS["static amat"]:
            assert images.labels is None and images.n_classes == 0
        else:
            assert images.labels is not None and images.labels[split].equal(labels.long())


def test_the_published_form_comes_first_and_a_folder_of_its_name_before_data_dir(tmp_path: Path) -> None:
    omniglot_npz(tmp_path)
    assert "not comparable" in data.load("omniglot", tmp_path).split
    omniglot_mat(tmp_path)
    assert "IWAE" in data.load("omniglot", tmp_path).split
    (tmp_path / "OMNIGLOT").mkdir()
    omniglot_npz(tmp_path / "OMNIGLOT")
    assert "not comparable" in data.load("omniglot", tmp_path).split


COUNTS = {  # mean: of the test split's batches, which only "dynamic" draws at random
    "mnist": (50_000, 10_000, 10_000, 10, 0.1325),
    "static-mnist": (50_000, 10_000, 10_000, 10, 0.132512),
    "fashion-mnist": (50_000, 10_000, 10_000, 10, 0.2868),
    "omniglot": (23_000, 1_345, 8_115, 50, 0.0798),
    "caltech-silhouettes": (4_100, 2_264, 2_307, 101, 0.4610),
    "cifar10": (900, 100, 500, 10, 0.4843),
}


@pytest.mark.skipif(not REAL, reason="VLAE_FAST_DATA names no folder with the files of the data sets")
@pytest.mark.parametrize("name", COUNTS)
def test_real_files(name: str) -> None:
    images = data.load(name, REAL)
    *counts, n_classes, mean = COUNTS[name]
    assert [len(images.pixels(split)) for split in data.SPLITS] == counts and images.n_classes == n_classes
    assert images.image_size == ((32, 32) if name == "cifar10" else (28, 28))
    assert float(images.fixed("test").mean()) == pytest.approx(mean, abs=1e-3 if images.levels == 2 else 1e-4)
    assert images.labels is not None and len(images.labels["test"]) == counts[2]


CUTS = {  # of mini.npz: its key, the split, and the rows of the split
    "mnist": ("mnist_train_images", "train", torch.arange(512)),
    "static-mnist": ("bmnist_test_bits", "test", torch.arange(256) * 39),
    "fashion-mnist": ("fashion_test_images", "test", torch.arange(256)),
    "omniglot": ("omniglot_test_images", "test", torch.arange(256) * 31 % 8115),
    "caltech-silhouettes": ("caltech_train_bits", "train", torch.arange(512)),
    "cifar10": ("cifar_train_images", "train", torch.arange(64)),
}


@pytest.mark.skipif(not REAL, reason="VLAE_FAST_DATA names no folder with mini.npz")
@pytest.mark.parametrize("name", CUTS)
def test_real_images_are_those_of_a_small_cut(name: str) -> None:
    key, split, rows = CUTS[name]
    cut = np.load(Path(str(REAL), "mini.npz"))[key]
    if key.endswith("_bits"):
        cut = np.unpackbits(cut, axis=1).reshape(-1, 28, 28)
    channels_last = torch.from_numpy(cut).reshape(*cut.shape[:3], -1)
    assert data.load(name, REAL).pixels(split)[rows].equal(channels_last.permute(0, 3, 1, 2))  # type: ignore[arg-type]
