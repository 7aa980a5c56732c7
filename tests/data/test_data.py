"""Images and their batches, the embedded digits, IDX files whole and damaged, and what `load` refuses."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import os
import re
import shutil
from pathlib import Path

import pytest
import torch

from vlae_fast import data

REAL = os.environ.get("VLAE_FAST_DATA")


def idx_bytes(tensor: torch.Tensor) -> bytes:
    header = bytes([0, 0, 8, tensor.dim()]) + b"".join(n.to_bytes(4, "big") for n in tensor.shape)
    return header + bytes(tensor.flatten().tolist())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """12 training and 5 test images of 3x4, gzipped images beside plain labels; grey level = 20 x row number."""
    for stem, n in (("train", 12), ("t10k", 5)):
        images = torch.arange(n, dtype=torch.uint8)[:, None, None].expand(n, 3, 4) * 20
        (tmp_path / f"{stem}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(images)))
        (tmp_path / f"{stem}-labels.idx1-ubyte").write_bytes(idx_bytes(torch.arange(n, dtype=torch.uint8)))
    return tmp_path


def test_digits_are_28x28_binary_and_split_once() -> None:
    images = data.load()
    assert [len(images.pixels(split)) for split in data.SPLITS] == [1500, 100, 197]
    assert images.image_size == (28, 28) and images.dims == 784 and images.binarization == "threshold"
    x = images.fixed("test")
    assert set(x.unique().tolist()) == {0.0, 1.0}
    assert 0.15 < float(x.mean()) < 0.35, "strokes should cover about a quarter of the picture"
    margin = torch.cat([x[..., :2].flatten(), x[..., -2:].flatten(), x[..., :2, :].flatten(), x[..., -2:, :].flatten()])
    assert margin.sum() == 0
    assert images.labels is not None and images.labels["train"].bincount().min() > 100
    assert data.load("digits").train.equal(images.train)


def test_idx_folder_keeps_order_and_takes_the_last_sixth_for_validation(folder: Path) -> None:
    images = data.load(data_dir=folder)
    assert images.name == folder.name and images.binarization == "dynamic"
    assert images.train[:, 0, 0, 0].tolist() == [20 * i for i in range(10)]
    assert images.valid[:, 0, 0, 0].tolist() == [200, 220]
    assert images.labels is not None
    assert {k: v.tolist() for k, v in images.labels.items()} == {
        "train": list(range(10)), "valid": [10, 11], "test": [0, 1, 2, 3, 4],
    }  # fmt: skip
    assert "10 train / 2 valid" in images.split and images.image_size == (3, 4)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
@pytest.mark.parametrize("place", [".", "{}", "{}/raw"])
def test_a_named_set_of_idx_files_is_found_in_its_folders(folder: Path, tmp_path: Path, name: str, place: str) -> None:
    names = {"mnist": ("mnist", "MNIST"), "fashion-mnist": ("fashion_mnist", "FashionMNIST")}[name]
    target = tmp_path / "data" / place.format(names["raw" in place])
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("data"), dirs_exist_ok=True)
    images = data.load(name, tmp_path / "data", "none")
    assert images.name == name and images.train.equal(data.load(data_dir=folder).train)
    assert data.load(name.replace("-", "_"), tmp_path / "data").name == name


def test_threshold_is_at_one_half() -> None:
    grey = torch.tensor([0, 127, 128, 255], dtype=torch.uint8)
    assert data.binarize(grey, "threshold").tolist() == [0, 0, 1, 1]


def test_fixed_stays_and_none_is_a_grey_level() -> None:
    x = torch.arange(256, dtype=torch.uint8)
    levels = data.binarize(x, "none")
    assert levels.equal(torch.arange(256) / 255) and levels.dtype == torch.float32
    assert data.binarize(x[:2], "fixed").tolist() == [0, 1]


def test_rgb() -> None:
    rgb = torch.arange(4 * 3 * 2 * 5).reshape(4, 3, 2, 5).to(torch.uint8)
    images = data.Images("rgb", rgb, rgb[:1], rgb[:2], "4/1/2", "none")
    assert (images.channels, images.image_size, images.dims, images.levels, images.n_classes) == (3, (2, 5), 30, 256, 0)
    batches = list(images.batches("train", 3, generator=torch.Generator()))
    assert torch.cat(batches).mul(255).round().byte().equal(rgb)
    with pytest.raises(ValueError, match="labels: rgb has none"):
        next(images.labelled_batches("train", 3, generator=torch.Generator()))


def test_labelled_batches_are_the_batches_with_their_labels(folder: Path) -> None:
    images = data.load(data_dir=folder)
    assert images.n_classes == 12 and images.levels == 2
    pairs = list(images.labelled_batches("train", 4, generator=torch.Generator().manual_seed(1), shuffle=True))
    alone = list(images.batches("train", 4, generator=torch.Generator().manual_seed(1), shuffle=True))
    assert all(x.equal(y) for (x, _), y in zip(pairs, alone, strict=True))
    grey = data.Images(**{**vars(images), "binarization": "none"})
    for x, labels in grey.labelled_batches("train", 4, generator=torch.Generator().manual_seed(1), shuffle=True):
        assert (x[:, 0, 0, 0] * 255 / 20).round().long().equal(labels)


def test_only_and_without_divide_the_images_by_class() -> None:
    pixels = {
        split: torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1)
        for split, n in zip(data.SPLITS, (8, 5, 6), strict=True)
    }
    labels = {split: torch.arange(len(part)) % 4 for split, part in pixels.items()}
    images = data.Images("few", **pixels, split="8/5/6", binarization="none", labels=labels)
    some, rest = images.only([3, 1]), images.without([3, 1])
    for split in data.SPLITS:
        assert some.labels and rest.labels
        keep = labels[split] % 2 == 1
        assert some.pixels(split).equal(pixels[split][keep]) and some.labels[split].equal(labels[split][keep])
        assert rest.pixels(split).equal(pixels[split][~keep]) and rest.labels[split].equal(labels[split][~keep])
    assert (some.name, some.binarization, some.split) == ("few", "none", "8/5/6; of these classes [1, 3] only")
    assert some.n_classes == 4  # a class keeps its number
    for wrong in ([4], [], [0, 4]):
        with pytest.raises(ValueError, match=rf"classes: must be some of 0, 1, 2, 3, got {re.escape(str(wrong))}"):
            images.only(wrong)
    with pytest.raises(ValueError, match=r"classes: must be some of 0, 1, 2, 3, got \[\]"):
        images.without([0, 1, 2, 3])
    rare = dataclasses.replace(images, labels=labels | {"valid": torch.tensor([0, 1, 2, 2, 2])})
    with pytest.raises(ValueError, match=r"classes: valid must have images of them, got \[3\]"):
        rare.only([3])
    with pytest.raises(ValueError, match="labels: few has none"):
        dataclasses.replace(images, labels=None).only([0])


def test_dynamic_binarization_is_redrawn_and_unbiased() -> None:
    grey = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 1, 3).expand(64, 1, 1, 3)
    images = data.Images("grey", grey, grey, grey, "none")
    generator = torch.Generator().manual_seed(1)
    epochs = [torch.cat(list(images.batches("train", 10, generator=generator))) for _ in range(100)]
    assert not epochs[0].equal(epochs[1])
    mean = torch.cat(epochs).mean((0, 1, 2))
    assert mean[0] == 0 and mean[2] == 1
    assert abs(mean[1] - 0.2) < 5 * (0.2 * 0.8 / 6400) ** 0.5


@pytest.mark.parametrize("binarization", ["dynamic", "threshold", "none"])
def test_batches_are_a_function_of_the_seed(folder: Path, binarization: str) -> None:
    images = data.load(data_dir=folder, binarization=binarization)
    runs = [
        list(images.batches("train", 4, generator=torch.Generator().manual_seed(seed), shuffle=True))
        for seed in (3, 3, 4)
    ]
    assert [len(x) for x in runs[0]] == [4, 4, 2]
    assert all(a.equal(b) for a, b in zip(runs[0], runs[1], strict=True))
    assert not torch.cat(runs[0]).equal(torch.cat(runs[2]))
    assert images.fixed("test", 7).equal(images.fixed("test", 7))


def test_truncated_files_say_expected_and_found(folder: Path) -> None:
    path = folder / "t10k-labels.idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(ValueError, match=r"truncated: expected 5 bytes .*, found 3"):
        data.load(data_dir=folder)
    path.write_bytes(b"\0\0\x08\x01\0\0")
    with pytest.raises(ValueError, match=r"header is truncated: expected 8 bytes, found 6"):
        data.read_idx(path)


def test_truncated_gzip(folder: Path) -> None:
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(ValueError, match="damaged gzip data"):
        data.load(data_dir=folder)
    path.write_bytes(b"not gzip at all")
    with pytest.raises(ValueError, match="damaged gzip data"):
        data.read_idx(path)


BAD_IDX = {
    "magic": (b"\x89PNG\r\n\x1a\n", r"magic number must be 0x00000803 .* got 0x89504e47"),
    "empty": (b"", r"magic number .* got 0x\(empty\)"),
    "float": (b"\0\0\x0d\x03" + bytes(12), r"got 0x00000d03"),
    "too long": (b"\0\0\x08\x01\0\0\0\x02abc", r"too long: expected 2 bytes .*, found more"),
    "huge": (
        b"\0\0\x08\x03" + b"\x7f\xff\xff\xff" * 3,
        r"at most 4096 pixels a side, but its header says \[2147483647",
    ),
    "nothing": (b"\0\0\x08\x01\0\0\0\0", r"must hold 1 to"),
}


@pytest.mark.parametrize(("content", "message"), BAD_IDX.values(), ids=BAD_IDX.keys())
def test_bad_idx_files(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        data.read_idx(tmp_path / "x")


def test_a_header_takes_no_memory_on_its_word(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\0\0\x08\x01\x3f\xff\xff\xff" + bytes(10))
    with pytest.raises(ValueError, match=r"truncated: expected 1,073,741,823 bytes .*, found 10"):
        data.read_idx(tmp_path / "x")


def test_missing_files_and_folders(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"must be an existing folder, got .*nowhere"):
        data.load(data_dir=tmp_path / "nowhere")
    (folder / "t10k-images-idx3-ubyte.gz").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"no IDX files with the test images .* looked for t10k-images-idx3-ubyte"
    ):
        data.load(data_dir=folder)


@pytest.mark.parametrize(("stem", "what"), [("train", "train labels"), ("t10k", "test labels")])
def test_half_of_the_labels_is_no_labels(folder: Path, stem: str, what: str) -> None:
    (folder / f"{stem}-labels.idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match=rf"no IDX files with the {what} in .* looked for {stem}-labels-idx1"):
        data.load(data_dir=folder)


def test_files_of_another_set_are_not_taken_for_the_one_asked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MNIST and Fashion-MNIST have files of the same names and shapes."""
    first = hashlib.sha256(data.load(data_dir=folder).train[0].numpy().tobytes()).hexdigest()
    monkeypatch.setitem(data.names.FIRST_IMAGES, "mnist", first)
    assert data.load("mnist", folder).name == "mnist"
    with pytest.raises(ValueError, match=r"must hold fashion-mnist, got the files of mnist"):
        data.load("fashion-mnist", folder)


@pytest.mark.skipif(REAL is None, reason="VLAE_FAST_DATA is not set")
@pytest.mark.parametrize(("name", "other"), [("mnist", "fashion-mnist"), ("fashion-mnist", "mnist")])
def test_the_real_files_are_known(name: str, other: str) -> None:
    folder = Path(REAL or "") / name.replace("-", "_")
    assert data.load(name, folder).image_size == (28, 28)
    with pytest.raises(ValueError, match=f"must hold {other}, got the files of {name}"):
        data.load(other, folder)


def test_files_that_do_not_belong_together(folder: Path) -> None:
    (folder / "train-labels.idx1-ubyte").write_bytes(idx_bytes(torch.zeros(11, dtype=torch.uint8)))
    with pytest.raises(ValueError, match=r"train labels must be one per image \(12\), got \(11,\)"):
        data.load(data_dir=folder)
    for stem in ("train", "t10k"):
        (folder / f"{stem}-labels.idx1-ubyte").unlink()
    other = idx_bytes(torch.zeros(5, 3, 5, dtype=torch.uint8))
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(other))
    message = r"test: images must be of the training images' shape \(1, 3, 4\), got \(1, 3, 5\)"
    with pytest.raises(ValueError, match=message):
        data.load(data_dir=folder)


NAMES = (
    "digits, mnist, static-mnist, fashion-mnist, kmnist, emnist-balanced, emnist-byclass, emnist-bymerge, "
    "emnist-digits, emnist-letters, emnist-mnist, omniglot, caltech-silhouettes, cifar10"
)


def test_bad_names(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match=f"data: must be one of {NAMES}, module:name, or no name for .*, got 'minst'",
    ):
        data.load("minst")
    with pytest.raises(ValueError, match=r'"digits" is embedded and takes no data_dir'):
        data.load("digits", tmp_path)
    message = r"no files of omniglot in .* \(or its omniglot/, OMNIGLOT/\): looked for chardata.mat or omniglot_28.npz"
    with pytest.raises(FileNotFoundError, match=message):
        data.load("omniglot", tmp_path)
    with pytest.raises(FileNotFoundError, match="must be an existing folder, got 'nowhere'"):
        data.load("cifar10", "nowhere")


def test_bad_binarization(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="binarization: must be one of dynamic, threshold, fixed, none, got 'median'"):
        data.load(binarization="median")
    with pytest.raises(ValueError, match="must be fixed for static-mnist, got 'dynamic'"):
        data.load("static-mnist", tmp_path, "dynamic")
    with pytest.raises(ValueError, match="must be dynamic or threshold or none for mnist, got 'fixed'"):
        data.load("mnist", tmp_path, "fixed")
    with pytest.raises(ValueError, match="must be none for cifar10, got 'threshold'"):
        data.load("cifar10", tmp_path, "threshold")
    with pytest.raises(ValueError, match="train: must hold zeros and ones where binarization is 'fixed', got 255"):
        data.load("digits", binarization="fixed")
    with pytest.raises(ValueError, match=r"binarization: must be one of .* got 'half'"):
        data.binarize(torch.zeros(1, dtype=torch.uint8), "half")


def test_bad_images() -> None:
    x = torch.zeros(2, 1, 3, 3, dtype=torch.uint8)
    for wrong in (x.float(), x[0], x[:0], x.expand(2, 2, 3, 3)):
        with pytest.raises(ValueError, match=r"valid: must be uint8 \[N, C, H, W\] with N > 0 and C = 1 or 3, got"):
            data.Images("x", x, wrong, x, "")
    good = {split: torch.zeros(2, dtype=torch.int64) for split in data.SPLITS}
    rule = r"test: labels must be int64 \[2\], from 0 to 65535, got "
    for wrong, found in (
        (good["test"] - 1, "-1"), (good["test"] + 65536, "65536"),
        (good["test"][:1], r"torch.int64 \(1,\)"), (good["test"].int(), "torch.int32"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=rule + found):
            data.Images("x", x, x, x, "", labels=good | {"test": wrong})
    del good["test"]
    with pytest.raises(ValueError, match=rule + "none"):
        data.Images("x", x, x, x, "", labels=good)


def test_bad_arguments_of_batches(folder: Path) -> None:
    images = data.load(data_dir=folder)
    generator = torch.Generator()
    with pytest.raises(ValueError, match="batch_size: must be at least 1, got 0"):
        next(images.batches("train", 0, generator=generator))
    with pytest.raises(ValueError, match="split: must be one of train, valid, test, got 'tset'"):
        images.fixed("tset")  # type: ignore[arg-type]
