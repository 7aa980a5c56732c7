"""Pilots and the fine-tuning: equal budgets, the same validation images, tables that say what was found."""

from __future__ import annotations

import itertools
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("safetensors")
pytest.importorskip("tqdm")
from benchmarks import fine_tuning, pilots
from vlae_fast import data


@pytest.fixture(autouse=True)
def strokes(monkeypatch: pytest.MonkeyPatch) -> None:
    """12 / 4 / 4 binary images in place of static MNIST."""
    generator = torch.Generator().manual_seed(0)
    parts: dict[str, Any] = {
        split: torch.randint(0, 2, (n, 1, 28, 28), dtype=torch.uint8, generator=generator)
        for split, n in (("train", 12), ("valid", 4), ("test", 4))
    }
    images = data.Images("static-mnist", **parts, split="12/4/4", binarization="fixed")
    monkeypatch.setattr(data, "load", lambda *_: images)


def test_pilots_of_equal_time_in_one_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(pilots.time, "process_time", lambda: float(next(ticks)))  # a second at each look
    names = "recipe,grown wider"
    given = ["pilots", "--data", "DIR", "--seconds", "4", "--keep", str(tmp_path), "--names", names]
    monkeypatch.setattr(sys, "argv", given)
    pilots.main()
    rows = capsys.readouterr().out.splitlines()
    assert rows[0].startswith("1,000 validation images; 4 CPU seconds a pilot")
    losses = [json.loads((tmp_path / f"{name}-4.json").read_text())["losses"] for name in ("recipe", "grown-wider")]
    means = [sum(of) / 4 for of in losses]
    changes = "hidden_dim 16, encoder_hidden 32, hidden_dim 32 after 50% of the time"
    assert rows[-2] == f"| recipe | none | 3 | {means[0]:.2f} |  |"
    assert rows[-1].startswith(f"| grown wider | {changes} | 3 | {means[1]:.2f} | {means[1] - means[0]:+.2f} +- ")
    monkeypatch.setattr(pilots, "run", lambda *_: pytest.fail("a pilot that is kept is not run again"))
    pilots.main()
    assert capsys.readouterr().out.splitlines() == rows


@pytest.mark.parametrize("pilot", pilots.PILOTS, ids=lambda pilot: pilot.name)
def test_every_pilot_makes_a_model_of_the_recipes_size(pilot: pilots.Pilot) -> None:
    """What is grown ends at the recipe's own size, so that only the way differs."""
    model = pilots.preset(pilots._RECIPE, **pilot.changes)
    if pilot.grown:
        model, recipe = pilots.grow(model, **pilot.grown), pilots.preset(pilots._RECIPE)
        shapes = [[tuple(p.shape) for p in of.parameters()] for of in (model, recipe)]
        assert shapes[0] == shapes[1]
    assert all(model.config[key] == value for key, value in {**pilot.changes, **pilot.grown}.items())


@pytest.mark.parametrize("pilot", [p for p in pilots.PILOTS if p.settings or p.later], ids=lambda pilot: pilot.name)
def test_settings_change_when_the_pilot_says(pilot: pilots.Pilot, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten updates, of which the first has no share of the time behind it."""
    ticks, seen = itertools.count(), []
    monkeypatch.setattr(pilots.time, "process_time", lambda: float(next(ticks)))

    def update(model: Any, optimizer: Any, batch: Any, objective: Any, weight: float) -> None:
        seen.append((objective.settings, len(batch.x), optimizer.param_groups[0]["lr"]))

    monkeypatch.setattr(pilots, "update", update)
    pilots.run(pilot, data.load("static-mnist", Path()), 10)
    shares = [(i + 1) / 10 for i in range(9)]
    for share, (settings, images, lr) in zip(shares, seen, strict=True):
        expected = {**pilot.settings, **(pilot.later if share >= pilot.at else {})}
        assert all(getattr(settings, name) == value for name, value in expected.items())
        assert images == min(settings.batch_size, 12)
        assert (lr == settings.lr) is (settings.lr_schedule == "constant")


def test_fine_tuning_says_both_figures(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(fine_tuning, "_DRAWS", 2)
    monkeypatch.setattr(sys, "argv", ["fine_tuning", "--data", "DIR", "--updates", "2", "--batch-size", "3"])
    fine_tuning.main()
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"static-mnist: 2 updates of 3 images, \d+ CPU seconds", lines[0])
    for line, name in zip(lines[1:], ("-ELBO", "NLL at most, 2 samples"), strict=True):
        found = re.fullmatch(rf"{name}: (\S+) -> (\S+) nats, (\S+) \+- (\S+) \(4 validation images\)", line)
        assert found and abs(float(found[2]) - float(found[1]) - float(found[3])) < 0.02
        assert float(found[3]) < 0, "on noise two steps are a gain"
