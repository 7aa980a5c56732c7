"""Presets, options, commands and names that docs/tutorials.md tells its readers to call are there."""

import re
from pathlib import Path

import pytest

import vlae_fast as vf
from vlae_fast.models import Options
from vlae_fast.models.presets import PRESETS
from vlae_fast.models.rules import declared
from vlae_fast.training import Settings

PAGE = (Path(__file__).parents[1] / "docs" / "tutorials.md").read_text(encoding="utf-8")
CODES = re.findall(r"`([^`]+)`", PAGE)
ROWS = [row.split(" | ")[1] for row in re.findall(r"^\| .* \|$", PAGE, re.MULTILINE)]  # the right column
HERE = [code for row in ROWS for code in re.findall(r"`([^`]+)`", row)]


def test_presets() -> None:
    named = re.findall(r'preset\("([\w-]+)"\)', PAGE)
    assert len(named) == 4 and set(named) <= PRESETS.keys()


def test_every_keyword_is_an_option_or_a_setting() -> None:
    known = {*declared(Options), *declared(Settings), "labels"}
    keywords = {name for code in HERE for name in re.findall(r"\b([a-z_]+)=", code)} - {"name", "binarization"}
    assert len(keywords) > 10 and keywords <= known, keywords - known


def test_every_public_name() -> None:
    names = {name for code in HERE for name in re.findall(r"\bvf\.([A-Za-z_]+)", code)}
    assert len(names) >= 3 and all(hasattr(vf, name) for name in names)
    plots = {name for code in CODES for name in re.findall(r"\b(plot_[a-z_]+)", code)}
    assert plots and all(hasattr(vf.visualization, name) for name in plots)


def test_methods_of_a_model() -> None:
    model = vf.VLAE(latent_dim=2, hidden_dim=4, n_layers=1)
    names = {name for code in HERE for name in re.findall(r"\bmodel\.([a-z_]+)", code)}
    assert len(names) >= 7 and all(hasattr(model, name) for name in names)


def test_commands_have_the_options() -> None:
    typer = pytest.importorskip("typer")
    from vlae_fast.commands import app

    commands = typer.main.get_command(app).commands
    lines = [code.removeprefix("vlae-fast ") for code in HERE]
    lines = [line.split() for line in lines if line.split()[0] in commands]
    assert len(lines) > 15
    for name, *rest in lines:
        options = {option for p in commands[name].params for option in (*p.opts, *p.secondary_opts)}
        assert {word for word in rest if word.startswith("--")} <= options, (name, rest)
    loose = {word for code in HERE for word in re.findall(r"^(--[a-z-]+)", code)}
    everywhere = {option for command in commands.values() for p in command.params for option in p.opts}
    assert loose <= everywhere, loose - everywhere
