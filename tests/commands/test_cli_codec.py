"""`compress` and `decompress`: pictures through a file, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from cases.commands import SIZE, call, trained
from PIL import Image

from vlae_fast import VLAE
from vlae_fast.backends import cpu

pytest.importorskip("constriction")
pytest.importorskip("typer")
pytestmark = pytest.mark.skipif(cpu.why_not() is not None, reason="the codec runs on the CPU library")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("model"), 4)


def pictures(folder: Path, n: int, top: int = 255) -> list[np.ndarray]:
    folder.mkdir()
    arrays = [(np.random.default_rng(i).random(SIZE) < 0.5).astype(np.uint8) * top for i in range(n)]
    for i, array in enumerate(arrays):
        Image.fromarray(array).save(folder / f"{i}.png")
    return arrays


@pytest.mark.parametrize("mode", ["mean", "bits-back"])
def test_pictures_come_back(tmp_path: Path, model: Path, mode: str) -> None:
    arrays, file, out = pictures(tmp_path / "in", 3), tmp_path / "x.vlae", tmp_path / "out"
    done = call("compress", tmp_path / "in", file, "--checkpoint", model, "--mode", mode)
    assert done.exit_code == 0 and f"3 images, {file.stat().st_size:,} bytes: " in done.output, done.output
    done = call("decompress", file, out, "--checkpoint", model)
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in out.iterdir()) == ["00000.png", "00001.png", "00002.png"]
    for i, array in enumerate(arrays):
        assert (np.array(Image.open(out / f"0000{i}.png")) == array).all()


def test_what_is_refused_leaves_nothing(tmp_path: Path, model: Path) -> None:
    pictures(tmp_path / "grey", 2, top=200)
    file = tmp_path / "x.vlae"
    done = call("compress", tmp_path / "grey", file, "--checkpoint", model)
    assert done.exit_code == 2 and "pixels must have the model's 2 levels, got 200 of 255" in done.stderr
    done = call("compress", tmp_path / "grey", file)
    assert done.exit_code == 2 and "must be 28x28 as the model's are, got 8x8" in done.stderr
    assert not file.exists()
    assert (
        call("compress", tmp_path / "grey", file, "--checkpoint", model, "--binarization", "threshold").exit_code == 0
    )
    done = call("decompress", file, tmp_path / "grey", "--checkpoint", model)
    assert done.exit_code == 2 and "error: out: must be new or empty" in done.stderr
    file.write_bytes(file.read_bytes()[:-1])
    done = call("decompress", file, tmp_path / "out", "--checkpoint", model)
    assert done.exit_code == 2 and "truncated" in done.stderr and not (tmp_path / "out").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"grey", "x.vlae"}


def test_a_lossy_file_is_small_and_decodes_each_way(tmp_path: Path, model: Path) -> None:
    pictures(tmp_path / "in", 3)
    file = tmp_path / "x.vlae"
    done = call("compress", tmp_path / "in", file, "--checkpoint", model, "--lossy", "--bits", "6")
    assert done.exit_code == 0 and f"3 images, {file.stat().st_size:,} bytes: " in done.output, done.output
    for way in ("draw", "mean", "likeliest"):
        done = call("decompress", file, tmp_path / way, "--checkpoint", model, "--pixels", way)
        assert done.exit_code == 0, done.output
    call("decompress", file, tmp_path / "again", "--checkpoint", model)
    names = ["00000.png", "00001.png", "00002.png"]
    for name in names:
        found = {way: np.array(Image.open(tmp_path / way / name)) for way in ("likeliest", "draw", "mean", "again")}
        assert set(np.unique(found["likeliest"])) | set(np.unique(found["draw"])) <= {0, 255}
        assert set(np.unique(found["mean"])) <= {round(255 * k / 16) for k in range(17)}
        assert (found["again"] == found["draw"]).all()
    assert sorted(path.name for path in (tmp_path / "mean").iterdir()) == names


@pytest.fixture(scope="module")
def conditional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("conditional")
    VLAE(1, 4, 4, 1, image_size=SIZE, flow_hidden=8, initial_kernel=3, n_classes=3).save_pretrained(folder / "c")
    return folder / "c"


def written(folder: Path) -> dict[str, np.ndarray]:
    return {str(path.relative_to(folder)): np.array(Image.open(path)) for path in sorted(folder.rglob("*.png"))}


@pytest.mark.parametrize("names", [("ant", "bee", "cat"), ("1", "2", "3"), ("class-0", "class-2")])
def test_folders_are_classes(tmp_path: Path, conditional: Path, names: tuple[str, ...]) -> None:
    (tmp_path / "in").mkdir()
    arrays = [array for name in names for array in pictures(tmp_path / "in" / name, 2)]
    file, numbers = tmp_path / "x.vlae", ["class-0", "class-1", "class-2"] if len(names) == 3 else names
    call_it = ("compress", tmp_path / "in", file, "--checkpoint", conditional)
    for options in ((), ("--mode", "bits-back"), ("--lossy",)):
        assert (done := call(*call_it, *options)).exit_code == 0, done.output
        out = tmp_path / f"out{len(options)}"
        assert (done := call("decompress", file, out, "--checkpoint", conditional)).exit_code == 0, done.output
        found = written(out)
        assert list(found) == [f"{numbers[i // 2]}/0000{i}.png" for i in range(len(arrays))]
        if "--lossy" not in options:
            assert all((a == b).all() for a, b in zip(found.values(), arrays, strict=True))
            first = file.read_bytes()
            assert call("compress", out, file, *call_it[3:], *options).exit_code == 0
            assert file.read_bytes() == first  # the folders are those that compress takes


def test_classes_by_a_file(tmp_path: Path, conditional: Path) -> None:
    pictures(tmp_path / "in", 3)
    file, labels = tmp_path / "x.vlae", tmp_path / "labels.txt"
    call_it = ("compress", tmp_path / "in", file, "--checkpoint", conditional)
    labels.write_text("2\n0\n2\n")
    assert (done := call(*call_it, "--labels", labels)).exit_code == 0, done.output
    assert call("decompress", file, tmp_path / "out", "--checkpoint", conditional).exit_code == 0
    assert list(written(tmp_path / "out")) == ["class-0/00001.png", "class-2/00000.png", "class-2/00002.png"]


def test_what_is_refused_of_classes(tmp_path: Path, model: Path, conditional: Path) -> None:
    pictures(tmp_path / "in", 2)
    file, labels = tmp_path / "x.vlae", tmp_path / "labels.txt"
    labels.write_text("0\n3\n")
    (tmp_path / "some").mkdir()
    pictures(tmp_path / "some" / "2", 1)  # of a model trained on folders 1, 2, 3 it is class 1: nobody can know
    done = call("compress", tmp_path / "some", file, "--checkpoint", conditional)
    assert done.exit_code == 2 and "got folders 2" in " ".join(done.stderr.split())
    cases = {
        "must lie in folders of all 3 classes, or named class-0 to class-2, or have their classes by --labels, got": (
            conditional,
        ),
        "line 2 must be a class from 0 to 2, got '3'": (conditional, "--labels", labels),
        "--labels: must not be given, for the model was trained without labels": (model, "--labels", labels),
    }
    for message, options in cases.items():
        done = call("compress", tmp_path / "in", file, "--checkpoint", *options)
        assert done.exit_code == 2 and message in " ".join(done.stderr.split()), done.stderr
    labels.write_text("0\n")
    done = call("compress", tmp_path / "in", file, "--checkpoint", conditional, "--labels", labels)
    assert done.exit_code == 2 and "must have a line for each of 2 pictures, got 1" in " ".join(done.stderr.split())
    assert not file.exists()


def test_options_of_lossy_and_lossless_files_do_not_mix(tmp_path: Path, model: Path) -> None:
    pictures(tmp_path / "in", 1)
    file = tmp_path / "x.vlae"
    call_it = ("compress", tmp_path / "in", file, "--checkpoint", model)
    done = call(*call_it, "--lossy", "--mode", "mean")
    assert done.exit_code == 2 and "--lossy: must not stand beside --mode" in done.stderr
    done = call(*call_it, "--bits", "6")
    assert done.exit_code == 2 and "--bits: must stand beside --lossy, got 6.0 without it" in done.stderr
    assert not file.exists()
    assert call(*call_it).exit_code == 0
    done = call("decompress", file, tmp_path / "out", "--checkpoint", model, "--pixels", "draw")
    assert done.exit_code == 2 and "for this file has them all, got 'draw'" in done.stderr
    assert not (tmp_path / "out").exists()
