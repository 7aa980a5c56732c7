"""Images of one's own that were taken for something else without a word: stray pictures, names, labels, sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from vlae_fast import data
from vlae_fast.data import datasets

GREY = torch.randint(256, (40, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
LABELS = torch.arange(40) % 3


class Items(list[Any]):
    """Items by number."""


def draw(path: Path, n: int = 1) -> None:
    image = pytest.importorskip("PIL.Image")
    path.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        image.fromarray(GREY[i, 0].numpy()).save(path / f"{i}.png")


def test_a_stray_picture_makes_no_training_images_of_the_test_images(tmp_path: Path) -> None:
    for split, n in (("train", 4), ("valid", 1), ("test", 2)):
        draw(tmp_path / split / "a", n)
    draw(tmp_path / ".thumbnails")
    draw(tmp_path / "train" / ".cache" / "deep")
    images = data.load(None, tmp_path)
    assert [len(images.pixels(split)) for split in data.SPLITS] == [4, 1, 2] and images.labels is not None
    draw(tmp_path / "more")
    with pytest.raises(ValueError, match=r"must lie in a folder of a split, .* test, train, valid, got .*more/0\.png"):
        data.load(None, tmp_path)


def test_classes_may_have_the_name_of_one_split(tmp_path: Path) -> None:
    for kind, n in (("train", 3), ("plane", 3)):
        draw(tmp_path / kind, n)
    assert "classes in order: plane, train" in data.load(None, tmp_path).split


def test_a_folder_of_hidden_pictures_has_none(tmp_path: Path) -> None:
    draw(tmp_path / ".trash", 3)
    with pytest.raises(FileNotFoundError, match="nor other images"):
        data.load(None, tmp_path)
    draw(tmp_path / ".trash" / "seen", 3)  # the folder itself may be hidden
    assert len(data.load(None, tmp_path / ".trash").train) == 4


def test_names_are_those_of_the_data_sets() -> None:
    assert data.NAMES == ("digits", *datasets.DATASETS)


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_ones_own_images_never_have_the_name_of_a_known_data_set(name: str, tmp_path: Path) -> None:
    draw(tmp_path / "pictures" / name, 3)
    (tmp_path / "npz" / name).mkdir(parents=True)
    np.savez(tmp_path / "npz" / name / "any.npz", x_train=GREY.numpy())
    np.savez(tmp_path / f"{name}.npz", x_train=GREY.numpy())
    for place in ("pictures/" + name, "npz/" + name, f"{name}.npz"):
        assert data.load(None, tmp_path / place).name == f"{name} (own)"
    kind = type(name.capitalize(), (Items,), {})
    for images in (data.for_training(kind(GREY), 2), data.for_split(kind(GREY), 2), data.from_dataset(kind(GREY))):
        assert images.name == f"{name} (own)"


def test_mnist_style_files_of_ones_own_are_not_kmnist(tmp_path: Path) -> None:
    for folder, name in (("kmnist", "kmnist (own)"), ("strokes", "strokes")):
        (tmp_path / folder).mkdir()
        for part in ("train", "t10k"):
            head = b"".join(n.to_bytes(4, "big") for n in (0x803, 20, 8, 8))
            (tmp_path / folder / f"{part}-images-idx3-ubyte").write_bytes(head + GREY[:20].numpy().tobytes())
        assert data.load(None, tmp_path / folder).name == name


@pytest.mark.parametrize("n", [3, 41])
def test_a_wrong_count_of_labels_is_an_error(n: int) -> None:
    message = rf"data: must have one label an image \(40\), got labels of shape \({n},\)"
    with pytest.raises(ValueError, match=message):
        data.from_dataset((GREY, torch.zeros(n).long()))
    loader = DataLoader(Items(GREY), 20, collate_fn=lambda rows: (torch.stack(rows), torch.zeros(n).long()))
    with pytest.raises(ValueError, match=r"batch 0: must have one label an image \(20\)"):
        data.from_dataset(loader)


def test_two_arrays_of_images_are_no_images_and_labels() -> None:
    for second in (GREY[:5], GREY, GREY[:, 0].numpy()):
        with pytest.raises(ValueError, match=r"of two arrays the second must be the labels \[N\] of the first"):
            data.from_dataset((GREY, second))


NO_CLASSES: dict[str, Any] = {
    "text": "cat",
    "a fraction": 0.5,
    "a dict": {"boxes": [1, 2]},
    "a date": np.datetime64("2020-01-01"),
    "truth": True,
    "attributes": torch.zeros(5).long(),
    "boxes": [[1, 2], [3]],
    "a half": torch.tensor(0.5, dtype=torch.bfloat16),
}


@pytest.mark.parametrize("label", NO_CLASSES.values(), ids=NO_CLASSES.keys())
def test_labels_that_are_no_classes_are_left_out(label: Any) -> None:
    assert data.from_dataset(Items([(grey, label) for grey in GREY])).labels is None


@pytest.mark.parametrize("label", ["text", "a fraction", "a dict", "truth", "attributes"])
def test_labels_that_are_no_classes_are_left_out_of_batches(label: str) -> None:
    loader = DataLoader(Items([(grey, NO_CLASSES[label]) for grey in GREY]), 7)
    assert data.from_dataset(loader).labels is None


def test_whole_numbers_of_every_width_are_classes() -> None:
    for kind in (">i2", "u2", "u8", "i1"):
        images = data.for_split((GREY, LABELS.numpy().astype(kind)), 2)
        assert images.labels is not None and images.labels["test"].equal(LABELS)


def test_a_pair_of_a_module_is_train_and_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_pairs.py").write_text(
        "import torch\nx, y = torch.arange(40.).div(39).reshape(40, 1, 1, 1).expand(40, 1, 8, 8), torch.arange(40)\n"
        "keras = (x, y), (x[:7], y[:7])\nthree = (x, y), (x[:5], y[:5]), (x[:7], y[:7])\none = ((x, y),)\n"
        "four = ((x, y),) * 4\nnothing = ()\n"
    )
    monkeypatch.chdir(tmp_path)
    for name, counts in (("keras", [36, 4, 7]), ("three", [40, 5, 7]), ("one", [32, 4, 4])):
        images = data.load(f"own_pairs:{name}")
        assert [len(images.pixels(split)) for split in data.SPLITS] == counts and images.name == name
    for name, n in (("four", 4), ("nothing", 0)):
        with pytest.raises(ValueError, match=rf"{name} must be \(train, test\) or \(train, valid, test\).*, got {n}"):
            data.load(f"own_pairs:{name}")


def test_a_size_is_for_folders_of_pictures_only(tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", x_train=GREY.numpy())
    for name, place in (
        (None, tmp_path / "own.npz"),
        (None, tmp_path),
        ("own:x", None),
        ("digits", None),
        (None, None),
    ):
        with pytest.raises(ValueError, match=r"image_size: is for folders of pictures only, got \(4, 4\) for "):
            data.load(name, place, image_size=(4, 4))
        with pytest.raises(ValueError, match="channels: is for folders of pictures only, got 1 for "):
            data.load(name, place, channels=1)
    assert data.own_images(tmp_path, image_size=(4, 4), channels=3).image_size == (8, 8)  # as a model asks for them
    with pytest.raises(FileNotFoundError, match="must be an existing folder"):
        data.load(None, tmp_path / "nowhere", image_size=(4, 4))


def test_arrays_of_any_strides_order_and_width() -> None:
    grey = GREY.numpy()
    other = {
        "flipped": (grey[:, :, ::-1], GREY.flip(2)),
        "big-endian whole": (grey.astype(">i4"), GREY),
        "big-endian real": (grey.astype(">f4") / 255, GREY),
        "uint16": (grey.astype(np.uint16), GREY),
        "uint16 big-endian": (grey.astype(">u2"), GREY),
        "uint64": (grey.astype(np.uint64), GREY),
        "uint16 of torch": (GREY.to(torch.uint16), GREY),
        "big-endian half": ((grey // 255).astype(">f2"), GREY // 255 * 255),
    }
    for kind, (array, expected) in other.items():
        assert data.for_split(array, 256).test.equal(expected), kind
    with pytest.raises(ValueError, match="must hold bytes from 0 to 255, got 0 to 510"):
        data.from_dataset(grey.astype(np.uint16) * 2)


def test_an_unknown_name_says_what_to_write_in_python_and_on_the_command_line() -> None:
    with pytest.raises(ValueError, match=r"in data_dir \(--data-dir on the command line\), got 'nope'"):
        data.load("nope")
