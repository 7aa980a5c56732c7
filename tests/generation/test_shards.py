"""Images by number: the same whoever draws them, and none is drawn twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases.processes import ended, results, start
from cases.runs import new_model

from vlae_fast import VLAE
from vlae_fast.generation import draw_shards, numbered_images, numbered_noise

pytest.importorskip("tqdm")

N, PER_SHARD = 23, 5


def draw(rank: int, out: str, **changes: Any) -> tuple[Any, ...]:
    torch.manual_seed(rank)
    return tuple(draw_shards(model(), out, **({"n": N, "seed": 3, "per_shard": PER_SHARD} | changes)))[:3]


def model(**changes: Any) -> VLAE:
    found = new_model(**({"n_classes": 3} | changes))
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return found.eval()


def read(folder: Path, name: str = "images") -> np.ndarray:
    index = json.loads((folder / "index.json").read_text())
    assert index["complete"] and index["images"] == N
    return np.concatenate([np.load(folder / shard)[name] for shard in index["shards"]])


def test_images_are_the_same_whatever_the_number_of_processes(tmp_path: Path) -> None:
    expected = numbered_images(model(), 0, N, seed=3, labels=torch.arange(N) % 3)
    assert draw(0, str(tmp_path / "1")) == (N, 5, N)
    for count in (2, 3):
        assert results(draw, count, str(tmp_path / str(count))) == [(N, 5, N)] * count
    names = sorted(path.name for path in (tmp_path / "1").iterdir())
    assert names == ["index.json", *(f"shard-0000{i}.npz" for i in range(5))]
    for count in (2, 3):
        assert all(
            (tmp_path / "1" / name).read_bytes() == (tmp_path / str(count) / name).read_bytes() for name in names
        )
    images, labels = read(tmp_path / "2"), read(tmp_path / "2", "labels")
    assert images.dtype == np.uint8 and (images == expected.numpy()).all() and 0.02 < images.mean() < 0.98
    assert (labels == np.arange(N) % 3).all()


def test_what_is_written_is_not_drawn_again(tmp_path: Path) -> None:
    draw(0, str(tmp_path))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for name in ("shard-00001.npz", "shard-00004.npz"):  # of which the last has 3 images
        (tmp_path / name).unlink()
    (tmp_path / "shard-00002.npz").write_bytes(b"left as it is")
    assert draw(0, str(tmp_path)) == (N, 5, PER_SHARD + 3)
    assert (tmp_path / "shard-00002.npz").read_bytes() == b"left as it is"
    assert all((tmp_path / name).read_bytes() == data for name, data in before.items() if "00002" not in name)
    assert draw(0, str(tmp_path)) == (N, 5, 0)


def test_a_folder_of_another_call(tmp_path: Path) -> None:
    draw(0, str(tmp_path / "a"))
    for change, message in (({"seed": 4}, "another seed, 3, got 4"), ({"n": 24}, "another images, 23, got 24")):
        with pytest.raises(ValueError, match=message):
            draw(0, str(tmp_path / "a"), **change)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").touch()
    with pytest.raises(ValueError, match=r"out: .* must be empty, or hold images that were begun"):
        draw(0, str(tmp_path / "b"))
    with pytest.raises(ValueError, match=r"out: must be a folder for files of images, got the file"):
        draw(0, str(tmp_path / "b" / "thesis.txt"))
    with pytest.raises(ValueError, match=r"n, per_shard: must be at least 1, got 0 and 5"):
        draw(0, str(tmp_path / "c"), n=0)


def draw_by_rank(rank: int, out: str) -> tuple[Any, ...]:
    return draw(rank, out, seed=rank)


def test_processes_with_other_arguments(tmp_path: Path) -> None:
    found = ended(start(draw_by_rank, 2, str(tmp_path)))
    message = "seed: must be the same in every process, got 0 in process 0 and 1 in process 1"
    assert [str(one.value) for one in found] == [message] * 2 and not any(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_noise_is_a_function_of_the_number(dtype: torch.dtype) -> None:
    for normal, shape in ((False, (2, 5, 3)), (True, (7,)), (True, (0,))):
        whole = numbered_noise(5, 0, 40, shape, dtype, normal=normal)
        assert whole.dtype == dtype and whole.shape == (40, *shape)
        assert whole[13:21].equal(numbered_noise(5, 13, 8, shape, dtype, normal=normal))
        if whole.numel():
            others = numbered_noise(6, 0, 40, shape, dtype, normal=normal)
            stream = numbered_noise(5, 0, 40, shape, dtype, normal=normal, stream=1)
            assert not whole.equal(others) and not whole.equal(stream)


def test_noise_is_distributed_as_it_says() -> None:
    uniform = numbered_noise(1, 2**40, 1000, (100,), torch.float32)
    normal = numbered_noise(1, 2**40, 1000, (100,), torch.float32, normal=True)
    assert 0 <= uniform.min() and uniform.max() < 1
    # each bound is five standard errors of 100,000 draws
    assert abs(uniform.mean() - 0.5) < 5 * 0.2887 / 316 and abs(normal.mean()) < 5 / 316
    assert (
        abs(normal.var() - 1) < 5 * 1.4142 / 316 and abs((normal.abs() < 1).double().mean() - 0.6827) < 5 * 0.4655 / 316
    )
    assert abs(torch.corrcoef(normal[:, :2].T)[0, 1]) < 5 / 31.6


@pytest.mark.parametrize(
    ("changes", "dtype"),
    [
        ({"likelihood": "gaussian"}, np.float32),
        ({"likelihood": "categorical", "levels": 300}, np.uint16),
        ({"latent_dim": 0}, np.uint8),
        ({"decoder": "mlp", "z_channels": None}, np.uint8),
    ],
)
def test_every_kind_of_image(changes: dict[str, Any], dtype: Any, tmp_path: Path) -> None:
    subject = model(**({"n_classes": 0} | changes))
    draw_shards(subject, tmp_path, 4, per_shard=2)
    images = np.load(tmp_path / "shard-00001.npz")["images"]
    assert images.dtype == dtype and images.shape == (2, 1, 8, 8)
    scale = 1 if dtype == np.float32 else max(subject.likelihood.levels, 2) - 1
    assert np.allclose(images / scale, numbered_images(subject, 2, 2).numpy(), atol=1e-6)
