"""The recipes of data sets: each builds, trains, stops in the middle of an epoch and goes on bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from cases.commands import call
from cases.runs import interrupting, same

from vlae_fast import checkpoint, data
from vlae_fast.models import PRESETS
from vlae_fast.training import loop

RECIPES = [name for name, preset in PRESETS.items() if "data_name" in preset.run]
SMALL = ["--flow-hidden", 8, "--epochs", 2, "--batch-size", 16]  # two steps an epoch


def tiny(name: str, folder: object = None, binarization: str = "dynamic", **_: object) -> data.Images:
    """32 / 8 / 8 pictures, of the channels and the levels of the data set."""
    generator = torch.Generator().manual_seed(0)
    shape = (3, 9, 8) if name == "cifar10" else (1, 9, 8)
    parts: dict[str, Any] = {
        split: torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=generator)
        for split, n in (("train", 32), ("valid", 8), ("test", 8))
    }
    if binarization == "fixed":
        parts = {split: (pixels > 127).to(torch.uint8) for split, pixels in parts.items()}
    return data.Images(name, **parts, split="32/8/8", binarization=binarization)


def test_every_data_set_of_the_paper_has_one() -> None:
    assert RECIPES == ["mnist", "static-mnist", "omniglot", "caltech", "fashion", "cifar10"]
    for name in RECIPES:
        run = PRESETS[name].run
        assert run["data_name"] in data.NAMES and run["binarization"] in data.datasets.DATASETS[run["data_name"]][3]
    shipped = checkpoint.load(checkpoint.MNIST)
    own = PRESETS["mnist"]
    assert shipped.model.config | own.model == shipped.model.config
    of_run = {**own.settings, "epochs": own.run["epochs"], "binarization": own.run["binarization"]}
    assert {key: shipped.training[key] for key in of_run} == of_run


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_and_goes_on_bit_for_bit(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "load", tiny)
    whole = call("train", "--preset", name, *SMALL, "--out", tmp_path / "whole")
    assert whole.exit_code == 0, whole.output
    given = ["train", "--preset", name, *SMALL, "--out", tmp_path / "parts"]
    with monkeypatch.context() as stopped:
        stopped.setattr(loop, "update", interrupting(before=3))
        assert call(*given).exit_code == 130  # in the second epoch
    assert checkpoint.load(tmp_path / "parts").epoch == 1
    again = call(*given, "--resume")
    assert again.exit_code == 0, again.output
    found, expected = (checkpoint.load(tmp_path / part) for part in ("parts", "whole"))
    assert found.epoch == 2 and same(found.model, expected.model)
    assert found.training["data"] == PRESETS[name].run["data_name"]
