"""The train command: every option arrives, in the model or in the settings of the run."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("typer")
from cases.commands import call

from vlae_fast import VLAE, checkpoint, data, training
from vlae_fast.models import PRESETS

RUN = ["--epochs", "1", "--hidden-dim", "8", "--n-layers", "1", "--latent-dim", "4"]


@pytest.fixture(autouse=True)
def small_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """60 of the digits: the command is what is tested here."""
    full = data.digits()
    sizes = {"train": 60, "valid": 10, "test": 10}
    parts = {split: full.pixels(split)[:n] for split, n in sizes.items()}
    assert full.labels
    labels = {split: full.labels[split][:n] for split, n in sizes.items()}
    images = data.Images("digits", **parts, split="60/10/10", labels=labels)
    monkeypatch.setattr(
        data, "load", lambda *how, **_: dataclasses.replace(images, binarization=how[-1] or "threshold")
    )


def test_train_passes_every_option_on(tmp_path: Path) -> None:
    settings = {"batch_size": 20, "lr": 0.002, "lr_decay": 0.5, "seed": 7, "warmup_epochs": 1.5, "free_bits": 2.5}
    settings |= {"optimizer": "adamax", "polyak": 0.9, "lr_schedule": "cosine", "beta": 0.5, "denoise": 0.1}
    settings |= {"clip_grad": 2.0, "plateau_factor": 0.25, "plateau_patience": 3}
    sizes = {"latent_dim": 5, "hidden_dim": 6, "n_layers": 2, "z_channels": 3, "kernel_size": 5, "initial_kernel": 3}
    sizes |= {"flow_hidden": 9, "flow_steps": 3, "flow_layers": 1, "flow_transform": "mean-only"}
    sizes |= {"encoder": "strided", "encoder_hidden": 4, "posterior": "iaf"}
    sizes |= {"encoder_norm": "batch", "encoder_activation": "relu", "encoder_units": 7}
    options = [f"--{key.replace('_', '-')}={value}" for key, value in (settings | sizes).items()]
    options += ["--no-path-derivative", "--flip"]
    others = ["--no-flow", "--encoder=resnet", "--encoder-norm=weight", "--latent-map", 1, 5, "--labels"]
    others += ["--encoder-units=0"]
    for out, extra in (("a", ["--residual", "--binarization", "dynamic"]), ("b", others)):
        result = call("train", *options, *extra, "--epochs", 1, "--device", "cpu", "--out", tmp_path / out)
        assert result.exit_code == 0, result.output
    a, b = (checkpoint.load(tmp_path / out / "checkpoint") for out in "ab")
    defaults = {"objective": "elbo", "samples": 1, "soft_free_bits": 0.0, "epochs": 1, "path_derivative": False}
    defaults |= {"flip": True, "autocast": False}
    assert a.training == settings | defaults | {"data": "digits", "split": "60/10/10", "binarization": "dynamic"}
    assert {key: a.model.config[key] for key in sizes} == sizes
    for found, residual, use_flow in ((a, True, True), (b, False, False)):
        assert (found.model.config["residual"], found.model.config["use_flow"]) == (residual, use_flow)
    assert b.training["binarization"] == "threshold"
    assert b.model.config | {"weight_norm": True, "latent_map": [1, 5], "n_classes": 10} == b.model.config
    for out, extra in (("c", ["--objective=iwae", "--samples=2"]), ("d", ["--soft-free-bits=9.5"])):
        assert call("train", *RUN, *extra, "--out", tmp_path / out).exit_code == 0
    c, d = (checkpoint.load(tmp_path / out / "checkpoint").training for out in "cd")
    assert (c["objective"], c["samples"], d["soft_free_bits"]) == ("iwae", 2, 9.5)


DECODERS = {
    "two-stack": {"z_channels": 2, "receptive_field": 9},
    "resnet": {"tied": True, "n_pointwise": 1},
    "pixelcnn++": {},
    "mlp": {"decoder_norm": "batch", "tapered": True},
    "deconv": {"decoder_norm": "weight", "deconv_kernel": 3},
}


@pytest.mark.parametrize("decoder", DECODERS)
def test_train_every_decoder(decoder: str, tmp_path: Path) -> None:
    options = [
        f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}")
        for name, value in DECODERS[decoder].items()
    ]
    result = call("train", *RUN, "--decoder", decoder, *options, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert re.search(
        r"parameters; bernoulli likelihood; each pixel sees (\d+ pixels of a window|no pixels)", result.output
    )
    config = checkpoint.load(tmp_path).model.config
    assert config["decoder"] == decoder and config | DECODERS[decoder] == config


@pytest.mark.parametrize("likelihood", [None, "logistic_mixture"])
def test_train_on_grey_levels(likelihood: str | None, tmp_path: Path) -> None:
    options = ["--likelihood", likelihood, "--components", 3] if likelihood else []
    result = call("train", *RUN, "--binarization", "none", *options, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    config = checkpoint.load(tmp_path).model.config
    assert (config["likelihood"], config["levels"]) == (likelihood or "categorical", 256)
    assert config["components"] == (3 if likelihood else 10)


def test_train_on_some_classes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[data.Images] = []
    train = training.train

    def spy(model: object, images: data.Images, **how: object) -> object:
        seen.append(images)
        return train(model, images, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "train", spy)
    labels = data.load("digits", None, None).labels
    assert labels
    classes = sorted(set(labels["valid"].tolist()) & set(labels["test"].tolist()))[:2]
    result = call("train", *RUN, "--classes", ",".join(map(str, classes)), "--out", tmp_path)
    assert result.exit_code == 0 and f"of these classes {classes} only" in result.output, result.output
    assert seen[0].labels and {int(label) for label in seen[0].labels["train"]} == set(classes)
    result = call("train", *RUN, "--classes", "12", "--out", tmp_path)
    assert result.exit_code == 2 and "--classes: must be some of 0, 1, 2" in result.stderr


def test_labels_must_be_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    images = dataclasses.replace(data.load(None), labels=None)
    monkeypatch.setattr(data, "load", lambda *_, **__: images)
    result = call("train", *RUN, "--labels", "--out", tmp_path)
    assert result.exit_code == 2 and result.stderr == "error: --labels: digits has no labels\n"


MLP = ["--preset", "mlp-vae-256", "--hidden-dim", 8]


def test_a_preset_sets_model_and_run_and_what_is_given_wins(tmp_path: Path) -> None:
    """Before and after --preset, and where the value given is the default without a preset."""
    given = ["--epochs", 1, "--lr", 0.001, "--clip-grad", 0]
    result = call("train", "--batch-size", 64, *MLP, *given, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "preset mlp-vae-256: the fully connected VAE: 784-256-256" in result.output
    found = checkpoint.load(tmp_path / "checkpoint")
    assert found.epoch == 1 and found.training["batch_size"] == 64
    assert (found.training["lr"], found.training["clip_grad"]) == (0.001, 0.0)
    config = PRESETS["mlp-vae-256"].model | {"hidden_dim": 8, "image_size": [28, 28], "n_classes": 0}
    assert found.model.config | config == found.model.config


def test_a_preset_alone_is_the_run_that_it_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runs: list[tuple[VLAE, dict[str, Any]]] = []

    def noting(model: VLAE, images: data.Images, **settings: Any) -> training.History:
        runs.append((model, settings))
        return [{"valid_loss": 0.0, "valid_bits_per_dim": 0.0}]

    monkeypatch.setattr(training, "train", noting)
    for name, preset in PRESETS.items():
        grey = ["--binarization", "threshold"] if preset.run.get("binarization") == "fixed" else []  # digits are
        result = call("train", "--preset", name, *grey, "--flow-hidden", 8, "--out", tmp_path)
        assert result.exit_code == 0, result.output
        model, settings = runs.pop()
        changed = {"flow_hidden": 8}
        assert model.config | preset.model | changed == model.config
        assert settings | preset.settings == settings and settings["epochs"] == preset.run.get("epochs", 20)
        assert f"{sum(p.numel() for p in model.parameters()):,} parameters" in result.output


def test_presets_are_listed_and_an_unknown_one_is_named() -> None:
    shown = "".join(call("train", "--help").output.split())  # lines are broken at hyphens too
    expected = [f"{name}: {preset.about}" for name, preset in PRESETS.items()] + ["no loader workers are needed"]
    assert [text for text in expected if "".join(text.split()) not in shown] == []
    result = call("train", "--preset", "vae")
    assert result.exit_code == 2
    assert re.search(r"'--preset': must be one of conv-vae-8-16-32, .*, got 'vae'", " ".join(result.stderr.split()))


@pytest.mark.parametrize(
    ("flags", "use_flow"), [([], False), (["--use-flow"], True), (["--flow"], True), (["--no-use-flow"], False)]
)
def test_the_flow_by_either_name(flags: list[str], use_flow: bool, tmp_path: Path) -> None:
    """The preset has none."""
    result = call("train", *MLP, *flags, "--flow-hidden", 8, "--epochs", 1, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert checkpoint.load(tmp_path / "checkpoint").model.config["use_flow"] is use_flow
