"""The recipes, trained one after another for so many minutes: a second call goes on."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("safetensors")
pytest.importorskip("tqdm")
pytest.importorskip("typer")
from benchmarks import on_gpu, recipes
from vlae_fast import checkpoint, data
from vlae_fast.models import PRESETS

GIVEN = ["--presets", "static-mnist,caltech", "--data", "DIR", "--epochs", "2", "--samples", "2", "--limit", "4"]


@pytest.fixture(autouse=True)
def strokes(monkeypatch: pytest.MonkeyPatch) -> None:
    """12 / 4 / 8 binary images in place of static MNIST, a small model in place of its recipe's; no other files."""

    def load(name: str, folder: Any = None, binarization: str = "fixed", **_: Any) -> data.Images:
        if name != "static-mnist":
            raise FileNotFoundError(f"no file of {name}")
        generator = torch.Generator().manual_seed(0)
        parts: dict[str, Any] = {
            split: torch.randint(0, 2, (n, 1, 28, 28), dtype=torch.uint8, generator=generator)
            for split, n in (("train", 12), ("valid", 4), ("test", 8))
        }
        return data.Images(name, **parts, split="12/4/8", binarization=binarization)

    monkeypatch.setattr(data, "load", load)
    small = {**PRESETS["static-mnist"].model, "hidden_dim": 4, "n_layers": 1, "flow_hidden": 8}
    monkeypatch.setitem(PRESETS, "static-mnist", dataclasses.replace(PRESETS["static-mnist"], model=small))


def test_what_time_did_not_allow_a_second_call_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trained, packed and evaluated once; the card has the figures."""
    ticks = itertools.count()
    with monkeypatch.context() as late:  # a second at each look: of 1.002 one is gone before an epoch, which begins yet
        late.setattr(recipes, "time", SimpleNamespace(monotonic=lambda: float(next(ticks))))
        assert recipes.main([*GIVEN, "--out", str(tmp_path), "--minutes", "0.0167"]) == 0
    told = capsys.readouterr().out
    assert "caltech: no file of caltech" in told and "not done: static-mnist; the same command goes on" in told
    first = checkpoint.load(tmp_path / "static-mnist").epoch
    assert first == 1 and not (tmp_path / "static-mnist" / "figures.json").exists()
    assert recipes.main([*GIVEN, "--out", str(tmp_path), "--autocast"][:-1]) == 0
    told = capsys.readouterr().out
    assert "epoch 2 of 2" in told and "by 2 importance samples (4 of 8 images)" in told and "not done" not in told
    figures = json.loads((tmp_path / "static-mnist" / "figures.json").read_text())
    packed = checkpoint.load(tmp_path / "static-mnist" / "packed")
    assert packed.epoch == 2 and packed.training["lr_schedule"] == PRESETS["static-mnist"].settings["lr_schedule"]
    assert f"{figures['nll']['nll']:.2f}" in (tmp_path / "static-mnist" / "packed" / "README.md").read_text()
    assert recipes.main([*GIVEN, "--out", str(tmp_path)]) == 0
    assert "epoch" not in capsys.readouterr().out  # nothing is left to do


def test_the_step_of_a_gpu_asks_for_every_recipe() -> None:
    (command,) = on_gpu.STEPS["models"]
    assert command.words[:2] == ("-m", "benchmarks.recipes") and "--presets" not in command.words
    assert {"cuda", "--autocast", on_gpu.RUNS} <= {*command.words}
    assert recipes.RECIPES == [name for name, row in PRESETS.items() if "data_name" in row.run]
