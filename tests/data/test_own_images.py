"""Images of one's own: tensors, data sets, loaders, pictures, .npz files, modules, for training and for evaluation."""

from __future__ import annotations

import sys
import types
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases.runs import halves, new_model, same
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from vlae_fast import data, evaluation, training

GREY = torch.randint(256, (40, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
LABELS = torch.arange(40) % 3


class Items(Dataset):
    """Items of a kind, as PyTorch's data sets have them: by number, and no end."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> Any:
        return self.items[number]


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[Any]:
        yield from zip(GREY, LABELS.tolist(), strict=True)


def floats(image: torch.Tensor) -> torch.Tensor:
    return image.float() / 255


def pictures() -> list[Any]:
    image = pytest.importorskip("PIL.Image")
    return [(image.fromarray(grey[0].numpy()), label) for grey, label in zip(GREY, LABELS.tolist(), strict=True)]


SOURCES: dict[str, Any] = {
    "tensor and labels": lambda: (GREY, LABELS),
    "arrays": lambda: (GREY[:, 0].numpy(), LABELS.numpy()),
    "data set of bytes": lambda: TensorDataset(GREY, LABELS),
    "data set of numbers": lambda: TensorDataset(floats(GREY), LABELS),
    "without channels": lambda: Items([(grey[0], int(c)) for grey, c in zip(GREY, LABELS, strict=True)]),
    "dicts": lambda: Items([{"image": grey, "label": int(c)} for grey, c in zip(GREY, LABELS, strict=True)]),
    "pictures": lambda: Items(pictures()),
    "stream": Stream,
    "loader": lambda: DataLoader(TensorDataset(GREY, LABELS), batch_size=7),
    "loader that shuffles and drops": lambda: DataLoader(
        TensorDataset(GREY, LABELS), batch_size=7, shuffle=True, drop_last=True
    ),
    "loader without batches": lambda: DataLoader(TensorDataset(GREY, LABELS), batch_size=None),
    "loader of a stream": lambda: DataLoader(Stream(), batch_size=7),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_every_source_gives_the_same_bytes_and_labels(kind: str) -> None:
    state = torch.get_rng_state()
    images = data.for_split(SOURCES[kind](), levels=256)
    assert torch.get_rng_state().equal(state)
    assert images.binarization == "none"
    for split in data.SPLITS:
        assert images.pixels(split).equal(GREY)
        assert images.labels is not None and images.labels[split].equal(LABELS)


def test_three_splits_are_as_given_and_what_is_missing_is_held_out_at_random() -> None:
    given = data.from_dataset((GREY, LABELS), (GREY[:5], LABELS[:5]), (GREY[5:8], LABELS[5:8]), name="mine")
    assert given.train.equal(GREY) and given.valid.equal(GREY[:5]) and given.test.equal(GREY[5:8])
    assert given.name == "mine" and given.split == "40 train / 5 valid / 3 test" and given.binarization == "dynamic"
    held = data.from_dataset(TensorDataset(GREY, LABELS))
    assert [len(held.pixels(s)) for s in data.SPLITS] == [32, 4, 4] and held.name == "tensordataset"
    rows = [int((GREY == image).flatten(1).all(1).nonzero()[0]) for s in data.SPLITS for image in held.pixels(s)]
    assert sorted(rows) == list(range(40)) and rows[32:36] != [32, 33, 34, 35]
    assert held.labels is not None and held.labels["valid"].equal(LABELS[rows[32:36]])
    assert "valid and test: drawn from the training images with seed 0" in held.split
    again = data.from_dataset(DataLoader(TensorDataset(GREY, LABELS), 8, shuffle=True))
    assert again.valid.equal(held.valid)  # else a resumed run would train on what it validated on


def test_zeros_and_ones_are_black_and_white_whatever_their_type() -> None:
    bits = (GREY > 128).byte()
    for source in (bits, bits.bool(), bits.float(), bits * 255, bits.int()):
        images = data.from_dataset(source)
        assert images.binarization == "fixed" and images.train.max() == 1
        assert data.for_split(source, 2).test.equal(bits)
        assert data.for_split(source, 256).test.equal(bits * 255)
    assert data.from_dataset(GREY.expand(-1, 3, -1, -1)).binarization == "none"
    assert data.for_split(GREY, 2).binarization == "dynamic"


WRONG: dict[str, tuple[Any, str]] = {
    "empty": (Items([]), "data: must hold images, got an empty data set"),
    "sizes": (Items([GREY[0], GREY[0, :, :4]]), r"item 1: image must be of the first one's shape \(1, 8, 8\), got"),
    "normalised": (
        floats(GREY) * 2 - 1,
        r"hold numbers in \[0, 1\], got -1 to 1: leave out what norm",
    ),
    "NaN": (torch.full((3, 1, 8, 8), torch.nan), r"must hold numbers in \[0, 1\], got nan to nan"),
    "levels": (GREY.int() * 2, r"must hold bytes from 0 to 255, got 0 to 510"),
    "channels": (torch.zeros(4, 5, 8, 8), r"image must be \[C, H, W\] or \[H, W\] with C = 1 or 3, in a batch, got"),
    "some labels": (Items([(GREY[0], 1), (GREY[1], None)]), "item 1: must have a label where the first has one"),
    "too few": (GREY[:1], "must hold at least 3 images, got 1"),
}


@pytest.mark.parametrize(("source", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_is_no_image_is_named(source: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data.from_dataset(source)


@pytest.mark.parametrize("source", ["photos", 3, Items(["cat.png"]), Items([{"text": 1}])])
def test_what_is_no_source_is_named(source: Any) -> None:
    with pytest.raises(TypeError, match=r"must be a tensor|must have one of image|image must be a tensor"):
        data.from_dataset(source)


def test_training_takes_a_loader_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    images = halves()
    loader = DataLoader(TensorDataset(images.train), batch_size=8, shuffle=True)
    settings: dict[str, Any] = {"batch_size": 16, "lr": 5e-3, "progress": False}
    whole, parts = new_model(), new_model()
    training.train(whole, loader, epochs=2, out_dir=tmp_path / "a", **settings)
    training.train(parts, loader, epochs=1, out_dir=tmp_path / "b", **settings)
    history = training.train(parts, loader, epochs=2, out_dir=tmp_path / "b", resume=True, **settings)
    assert same(whole, parts) and len(history) == 2
    same_images = data.for_training(loader, levels=2)
    assert [len(same_images.pixels(s)) for s in data.SPLITS] == [36, 4, 4] and same_images.test.equal(same_images.valid)
    third = new_model()
    training.train(third, same_images, epochs=2, out_dir=tmp_path / "c", **settings)
    assert same(whole, third)


def test_evaluation_takes_what_training_takes() -> None:
    model, images = new_model(), halves()
    for source in (images.test, TensorDataset(images.test), DataLoader(TensorDataset(images.test), 3)):
        assert evaluation.evaluate(model, source) == evaluation.evaluate(model, images)
        assert evaluation.per_image(model, source).kl.equal(evaluation.per_image(model, images).kl)
        assert evaluation.encode(model, source).mu.equal(evaluation.encode(model, images).mu)
        assert evaluation.anomaly_scores(model, source).equal(evaluation.anomaly_scores(model, images))
    bounds = [evaluation.importance_bound(model, source, samples=2) for source in (images.test, images)]
    assert bounds[0] == bounds[1] and bounds[0].images == 10


def draw(path: Path, array: Any, mode: str | None = None) -> None:
    image = pytest.importorskip("PIL.Image")
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = image.fromarray(np.asarray(array))
    (picture.convert(mode) if mode else picture).save(path)


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    for i in range(12):
        draw(tmp_path / "pets" / f"{i:02}.png", GREY[i, 0].numpy())
    (tmp_path / "pets" / "notes.txt").write_text("no picture")
    images = data.load(None, tmp_path / "pets")
    assert images.name == "pets" and images.image_size == (8, 8) and images.channels == 1 and images.labels is None
    assert [len(images.pixels(s)) for s in data.SPLITS] == [10, 1, 1] and "pictures of 8x8" in images.split
    found = torch.cat([images.pixels(s) for s in data.SPLITS])
    assert sorted(found.flatten(1).tolist()) == sorted(GREY[:12].flatten(1).tolist())
    small = data.load(None, tmp_path / "pets", image_size=(4, 6), channels=3)
    assert small.train.shape[1:] == (3, 4, 6) and small.binarization == "none"


def test_folders_are_splits_and_classes(tmp_path: Path) -> None:
    for split, n in (("train", 4), ("val", 2), ("test", 1)):
        for kind, level in (("dogs", 200), ("cats", 100)):
            for i in range(n):
                draw(tmp_path / split / kind / f"{i}.png", np.full((4, 4, 3), level + i, np.uint8))
    images = data.picture_folder(tmp_path, "pets")
    assert [len(images.pixels(s)) for s in data.SPLITS] == [8, 4, 2] and "classes in order: cats, dogs" in images.split
    assert images.labels is not None and images.labels["valid"].tolist() == [0, 0, 1, 1]
    assert images.valid[:, 0, 0, 0].tolist() == [100, 101, 200, 201]


def test_pictures_are_cut_scaled_and_laid_over_white(tmp_path: Path) -> None:
    wide = np.zeros((8, 16), np.uint8)
    wide[:, 4:12] = 255  # the middle square
    clear = np.zeros((8, 8, 4), np.uint8)
    clear[:4, :, 3] = 255  # above black, below transparent
    for name, array in (("wide", wide), ("clear", clear)):
        for i in range(3):
            draw(tmp_path / name / f"{i}.png", array)
    square = data.picture_folder(tmp_path / "wide", "w", image_size=(4, 4))
    assert square.train.min() == 1 and square.binarization == "fixed"
    over = data.picture_folder(tmp_path / "clear", "c").train
    assert over.shape[1] == 3 and over[0, :, :4].max() == 0 and over[0, :, 4:].min() == 1


def test_wrong_pictures_are_named(tmp_path: Path) -> None:
    draw(tmp_path / "a.png", np.zeros((4, 4), np.uint8))
    draw(tmp_path / "b.png", np.zeros((4, 5), np.uint8))
    with pytest.raises(ValueError, match=r"image_size: must be given .* 4x4 \(a.png\) and 4x5 \(b.png\)"):
        data.load(None, tmp_path)
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "b.png").write_bytes(whole[:45])
    with pytest.raises(ValueError, match=r"b.png: damaged picture"):
        data.load(None, tmp_path)
    (tmp_path / "b.png").write_bytes(b"%!PS-Adobe")  # a format of Pillow's that runs a program
    with pytest.raises(ValueError, match=r"b.png: must be a picture \(PNG, JPEG"):
        data.load(None, tmp_path)
    draw(tmp_path / "b.png", np.zeros((4, 4), np.uint16))
    with pytest.raises(ValueError, match=r"b.png: must have 8 bits a channel, got mode 'I;16'"):
        data.load(None, tmp_path)
    huge = bytearray(whole)
    huge[16:24] = (60_000).to_bytes(4, "big") * 2
    huge[29:33] = zlib.crc32(huge[12:29]).to_bytes(4, "big")
    (tmp_path / "b.png").write_bytes(bytes(huge))
    with pytest.raises(ValueError, match=r"b.png: must .*(at most 67,108,864 pixels|exceeds limit)"):
        data.load(None, tmp_path)


NPZ: dict[str, dict[str, Any]] = {
    "keras": {"x_train": GREY[:, 0], "y_train": LABELS, "x_test": GREY[:5, 0], "y_test": LABELS[:5]},
    "medmnist": {
        "train_images": GREY[:, 0], "train_labels": LABELS[:, None], "val_images": GREY[:7, 0],
        "val_labels": LABELS[:7, None], "test_images": GREY[:5, 0], "test_labels": LABELS[:5, None],
    },
    "one array": {"arr_0": GREY[:, 0]},
    "channels last": {"images": GREY.permute(0, 2, 3, 1), "labels": LABELS},
}  # fmt: skip


@pytest.mark.parametrize("kind", NPZ)
def test_any_npz(kind: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", **{name: np.asarray(array) for name, array in NPZ[kind].items()})
    for place in (tmp_path / "own.npz", tmp_path):
        images = data.load(None, place)
        assert images.image_size == (8, 8) and images.binarization == "dynamic"
        counts = {"keras": [36, 4, 5], "medmnist": [40, 7, 5]}.get(kind, [32, 4, 4])
        assert [len(images.pixels(s)) for s in data.SPLITS] == counts
        assert (images.labels is None) == (kind == "one array")
        if "test" in NPZ[kind] or kind in ("keras", "medmnist"):
            assert images.test.equal(GREY[:5]) and images.labels["test"].equal(LABELS[:5])


def test_wrong_npz_is_named(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    for arrays, message in (
        ({"weights": GREY}, "must hold one of x_train, .*, got weights"),
        ({"x_train": GREY.int() + 1}, "x_train must be bytes from 0 to 255, got 1 to 256"),
        ({"x_train": GREY.float()}, "must hold 1 to .* of integers"),
        ({"x_train": GREY[:, 0, 0]}, r"x_train must be \[N, H, W\], or"),
        ({"x_train": GREY, "y_train": LABELS[:3]}, r"y_train must be one per image \(40\), got"),
    ):
        np.savez(path, **{name: np.asarray(array) for name, array in arrays.items()})
        with pytest.raises(ValueError, match=message):
            data.load(None, path)


def test_a_module_and_torchvision_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_pets.py").write_text(
        "import torch\nfrom torch.utils.data import TensorDataset\n"
        "pets = TensorDataset(torch.arange(40.).div(39)[:, None, None, None].expand(40, 1, 8, 8))\n"
        "class Pets(TensorDataset):\n    def __init__(self):\n        super().__init__(*pets.tensors)\n"
        "def both():\n    return {'train': pets, 'test': pets}\n"
    )
    monkeypatch.chdir(tmp_path)
    assert len(data.load("own_pets:pets").train) == 32 and data.load("own_pets:pets").name == "pets"
    assert len(data.load("own_pets:both").test) == 40 and len(data.load("own_pets:Pets").train) == 32
    with pytest.raises(ValueError, match="data: must be module:name with a name that the module has, got 'own_pets:x'"):
        data.load("own_pets:x")
    with pytest.raises(ImportError, match="data: nowhere_at_all:x: No module named 'nowhere_at_all'"):
        data.load("nowhere_at_all:x")
    assert tmp_path.as_posix() not in sys.path

    class Svhn(Items):
        def __init__(self, root: str, split: str = "train", download: bool = False) -> None:
            if split not in ("train", "test"):
                raise ValueError(split)
            assert root == str(tmp_path) and not download
            super().__init__(list(zip(GREY, LABELS.tolist(), strict=True))[: 40 if split == "train" else 9])

    class Mnist(Svhn):
        def __init__(self, root: str, train: bool = True) -> None:
            super().__init__(root, "train" if train else "test")

    stand_in = types.ModuleType("torchvision.datasets")
    stand_in.SVHN, stand_in.MNIST = Svhn, Mnist  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.datasets", stand_in)
    for name in ("SVHN", "MNIST"):
        images = data.load(f"torchvision:{name}", tmp_path)
        assert [len(images.pixels(s)) for s in data.SPLITS] == [36, 4, 9]
        assert images.name == {"SVHN": "svhn", "MNIST": "mnist (own)"}[name]  # its validation images are others
