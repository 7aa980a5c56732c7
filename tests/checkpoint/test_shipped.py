"""Models that ship: found in their folder by name, wherever a checkpoint is taken, and listed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from cases.commands import call
from cases.runs import new_model, same

from vlae_fast import VLAE, checkpoint
from vlae_fast.checkpoint import folder
from vlae_fast.checkpoint.shipped import figure_of, read_figures

FIGURES: dict[str, Any] = {
    "data": "halves", "split": "test", "images": 50, "total": 50, "elbo": -12.5, "elbo_error": 0.25,
    "reconstruction": 10.0, "kl": 2.5, "bits_per_dim": 0.28, "nll": None,
}  # fmt: skip
NLL = {"nll": 12.0, "error": 0.24, "bits_per_dim": 0.27, "samples": 512, "images": 40, "total": 50}


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two models that ship; nobody is told their names."""
    at = tmp_path / "pretrained"
    for name, width in (("lefts", 8), ("rights", 12)):
        checkpoint.save_pretrained(new_model(hidden_dim=width), at / name, training={"data": "halves"})
    (at / "lefts" / "figures.json").write_text(json.dumps(FIGURES | {"nll": NLL}))
    (at / "notes").mkdir()  # no model
    monkeypatch.setattr(folder, "PRETRAINED", at)
    monkeypatch.chdir(tmp_path)
    return at


@pytest.mark.usefixtures("two")
def test_a_name_is_a_checkpoint() -> None:
    assert same(checkpoint.load("lefts").model, new_model())
    assert checkpoint.load("rights").model.config["hidden_dim"] == 12
    assert same(VLAE.from_pretrained("lefts"), new_model())


@pytest.mark.usefixtures("two")
def test_a_folder_here_comes_before_a_name() -> None:
    checkpoint.save_pretrained(new_model(hidden_dim=16), "lefts")
    assert checkpoint.load("lefts").model.config["hidden_dim"] == 16


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize("name", ["middles", "notes"])
def test_a_name_that_does_not_ship(name: str) -> None:
    problem = f"checkpoint: {name} is not an existing folder, nor a model that ships: those are lefts, rights"
    with pytest.raises(FileNotFoundError, match=re.escape(problem)):
        checkpoint.load(name)
    for arguments in ((name,), ("--model", name)):
        result = call("sample", *arguments)
        assert result.exit_code == 2 and result.output.strip() == f"error: {problem}"
    with pytest.raises(FileNotFoundError, match=r"out/middles is not an existing folder$"):
        checkpoint.load("out/middles")  # no name


def test_models_lists_what_ships(two: Path) -> None:
    result = call("models")
    assert result.exit_code == 0, result.output
    size = sum(path.stat().st_size for path in (two / "lefts").iterdir()) / 1e6
    figure = "12.00 +- 0.24 nats (NLL at most, 512 samples, 40 test images)"
    assert f"lefts: halves, {figure}, {size:.1f} MB\n    vlae-fast sample --model lefts\n" in result.output
    assert "rights: halves, no figures" in result.output and "notes" not in result.output
    found = json.loads(call("models", "--json").output)["models"]
    assert [(m["name"], m["size"] > 1000) for m in found] == [("lefts", True), ("rights", True)]


@pytest.mark.usefixtures("two")
def test_every_command_that_takes_a_checkpoint_takes_a_name(tmp_path: Path) -> None:
    """By --model, and by --checkpoint where images come first; beside a folder it is refused."""
    typer = pytest.importorskip("typer")
    from vlae_fast.commands import app

    commands = typer.main.get_command(app).commands
    taking = {name for name, command in commands.items() if any(p.metavar == "[CHECKPOINT]" for p in command.params)}
    named = {name for name, command in commands.items() if any("--model" in p.opts for p in command.params)}
    assert {"sample", "evaluate", "reconstruct", "explore"} <= taking and named == taking | {"compress", "decompress"}
    result = call("sample", "--model", "rights", "-n", 1, "--out", tmp_path / "s.png")
    assert result.exit_code == 0, result.output
    result = call("sample", "lefts", "--model", "rights")
    assert result.output.strip() == "error: --model: must not be given beside CHECKPOINT lefts, got rights"


def test_figures_are_of_the_nll_where_it_is_known() -> None:
    assert figure_of(FIGURES) == "12.50 +- 0.25 nats (-ELBO, 50 test images)"
    assert figure_of(FIGURES | {"nll": NLL}, dims=64).startswith("0.2700 +- 0.0054 bits/dim (NLL at most")


def test_figures_of_another_kind_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    for text, problem in (("{", "not valid JSON"), ("{}", "none with 'data'"), ("[]", "none with 'data'")):
        path.write_text(text)
        with pytest.raises(ValueError, match=problem):
            read_figures(path)
