"""`compress` and `decompress`: pictures through a file, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from cases.commands import SIZE, call, trained
from PIL import Image

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
    assert done.exit_code == 2 and "must be new or empty" in done.stderr
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
