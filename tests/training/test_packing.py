"""A run packed as a model that ships: the averaged weights in float16, a card that says how it was made."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from cases.commands import call
from cases.runs import halves, new_model, run

from vlae_fast import checkpoint, data, evaluation
from vlae_fast.training import packing


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose checkpoint has averaged weights beside those in training."""
    folder = tmp_path_factory.mktemp("run")
    run(new_model(use_flow=False), folder, polyak=0.9, lr_schedule="cosine")
    return folder


@pytest.fixture
def _halves(monkeypatch: pytest.MonkeyPatch) -> None:
    """The data set of the run, for the commands that load it by name or by folder."""
    monkeypatch.setattr(data, "load", lambda *given, **options: halves())
    monkeypatch.setattr(data, "own_images", lambda *given, **options: halves())


@pytest.mark.usefixtures("_halves")
def test_the_command_packs_and_says_the_loss(at: Path, tmp_path: Path) -> None:
    out = tmp_path / "small"
    result = call("pack", at, out, "--data-dir", tmp_path)
    assert result.exit_code == 0, result.output
    before, after = checkpoint.load(at), checkpoint.load(out)
    for name, tensor in before.model.state_dict().items():
        assert after.model.state_dict()[name].equal(tensor.half().float()), name
    assert not (out / "optimizer.safetensors").exists()
    assert (out / "model.safetensors").stat().st_size < 0.6 * (at / "checkpoint" / "model.safetensors").stat().st_size
    losses = [evaluation.per_image(found.model, halves(), "valid") for found in (before, after)]
    elbo = [-(terms.reconstruction + terms.kl).mean().item() for terms in losses]
    assert f"ELBO {elbo[0]:.3f} -> {elbo[1]:.3f} nats/image by float16" in result.output
    assert f"{elbo[0] - elbo[1]:+.4f} +- " in result.output and "(10 valid images of halves" in result.output


def test_without_the_data_the_loss_is_not_known(at: Path, tmp_path: Path) -> None:
    result = call("pack", at, tmp_path / "small")
    assert result.exit_code == 0 and "the loss by rounding is not known: give --data or --data-dir" in result.output


@pytest.mark.usefixtures("_halves")
def test_the_card_and_the_figures(at: Path, tmp_path: Path) -> None:
    """Figures are what `evaluate --json` prints of the packed model; the card names what they are of."""
    result = call("evaluate", at, "--data-dir", tmp_path, "--samples", 3, "--json")
    assert result.exit_code == 0, result.output
    figures = tmp_path / "figures.json"
    figures.write_text(result.output[result.output.index("{\n") :])
    out = tmp_path / "small"
    result = call("pack", at, out, "--figures", figures, "--command", "vlae-fast train --preset mine")
    assert result.exit_code == 0, result.output
    card, known = (out / "README.md").read_text(encoding="utf-8"), json.loads(figures.read_text())
    assert json.loads((out / "figures.json").read_text()) == known and known["elbo_error"] > 0
    nll = known["nll"]
    assert f"{nll['nll']:.2f} +- {nll['error']:.2f} nats (NLL at most, 3 samples, 10 test images)" in card
    assert f"{-known['elbo']:.2f} +- {known['elbo_error']:.2f} nats (-ELBO, 10 test images)" in card
    assert "    vlae-fast train --preset mine\n" in card and "--model small" in card and "Split: 40/10/10." in card
    for row in checkpoint.load(at).history:
        assert re.search(rf"^\| {row['epoch']} \| 0 \| [\d.]+ \| {row['valid_loss']:.2f} \|$", card, re.MULTILINE)
    assert re.search("^## Licence$", card, re.MULTILINE)


def test_the_command_of_a_run_gives_its_settings_back(at: Path) -> None:
    """What the card says is parsed by the command line itself."""
    typer = pytest.importorskip("typer")
    from vlae_fast.commands import app

    found = checkpoint.load(checkpoint.MNIST)
    found.model.config["latent_map"] = [4, 8]  # as JSON has a pair
    words = shlex.split(packing.command_of(found))
    assert words[:2] == ["vlae-fast", "train"]
    given = typer.main.get_command(app).commands["train"].make_context("train", words[2:]).params
    for key, value in {**found.training, **found.model.config}.items():
        if given.get(key) is not None:
            assert given[key] == (tuple(value) if key == "latent_map" else value), key
    assert given["latent_map"] == (4, 8)
    assert given["data_name"] == "mnist" and given["epochs"] == 24 and given["residual"] is True
    assert "--no-use-flow" in packing.command_of(checkpoint.load(at))
    found.training["init"] = "runs/a b"
    assert shlex.split(packing.command_of(found))[-2:] == ["--init", "runs/a b"]


@pytest.mark.parametrize(("most", "value", "message"), [
    (10, 0.0, "pack: the weights must take at most 10 bytes in float16, got [0-9,]+"),
    (packing.MOST_BYTES, 1e6, r"pack: .*bias must be within 65504 for float16, got 1e\+06"),
])  # fmt: skip
def test_what_does_not_fit(
    at: Path, tmp_path: Path, most: int, value: float, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "MOST_BYTES", most)
    found = checkpoint.load(at)
    if value:
        with torch.no_grad():
            found.model.decoder.get_parameter("final_conv.bias").fill_(value)
    with pytest.raises(ValueError, match=message):
        packing.pack(found, tmp_path / "small", name="small", command=None, figures=None)
    assert not (tmp_path / "small").exists()
