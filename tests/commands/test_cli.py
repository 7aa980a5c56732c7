"""The command line: a whole run from training to evaluation, one-line errors, exit codes, units in the help."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("typer")
from cases.commands import call
from cases.pictures import assert_shows, decoded

from vlae_fast import VLAE, __main__, _extras, checkpoint, data
from vlae_fast.experiments import demo
from vlae_fast.sampling.emit import Samples
from vlae_fast.training import loop

RUN = ["--epochs", "1", "--hidden-dim", "8", "--n-layers", "1", "--latent-dim", "4"]


@pytest.fixture(autouse=True)
def small_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """60 of the digits: the commands are what is tested here."""
    full = data.digits()
    parts = full.train[:60], full.valid[:10], full.test[:10]
    monkeypatch.setattr(
        data.datasets, "digits", lambda binarization: data.Images("digits", *parts, "60/10/10", binarization)
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = VLAE(1, 2, 4, 1, image_size=(28, 28), flow_hidden=8)
    folder = tmp_path_factory.mktemp("run") / "checkpoint"
    checkpoint.save(folder, model, torch.optim.Adam(model.parameters()), epoch=0, training={}, history=[])
    return folder


def test_train_resume_evaluate_sample(tmp_path: Path) -> None:
    result = call("train", *RUN, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "60/10/10" in result.output and re.search(
        r"validation loss \d+\.\d\d nats/image, \d\.\d+ bits/dim", result.output
    )
    result = call("train", *RUN, "--out", tmp_path)
    assert result.exit_code == 2 and "exists: resume or overwrite it" in result.output
    result = call("train", *RUN, "--out", tmp_path, "--resume", "--epochs", 2)
    assert result.exit_code == 0 and "epoch 2:" in result.output
    assert checkpoint.load(tmp_path / "checkpoint").epoch == 2
    result = call("evaluate", tmp_path / "checkpoint")
    assert result.exit_code == 0
    assert re.match(
        r"digits test, epoch 2: ELBO -\d+\.\d+ = -\(reconstruction \d+\.\d+ \+ KL -?\d+\.\d+\) nats/image, "
        r"at most \d\.\d+ bits/dim \(10 images\)\n",
        result.output,
    )


def test_sample_writes_the_same_png_for_the_same_seed(saved: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        result = call("sample", saved, "-n", 4, "--seed", seed, "--out", tmp_path / f"{name}.png")
        assert result.exit_code == 0, result.output
        assert re.search(
            r"4 images: prior .* s, pixels .* s \(.* images/s\), backend \w+, \d+ steps; .*png", result.output
        )
    a, b, c = (decoded(tmp_path / f"{name}.png") for name in "abc")
    assert a.equal(b) and not a.equal(c)
    assert_shows(
        tmp_path / "a.png", checkpoint.load(saved).model.sample(4, torch.Generator().manual_seed(1)), columns=2
    )


def test_sample_passes_the_temperature_on(saved: Path, tmp_path: Path) -> None:
    pictures = []
    for i, options in enumerate(([], ["--temperature", 1], ["--temperature", 0.01], ["--temperature", 100])):
        assert call("sample", saved, "-n", 4, *options, "--out", tmp_path / f"{i}.png").exit_code == 0
        pictures.append((tmp_path / f"{i}.png").read_bytes())
    default, one, cold, hot = pictures
    assert default == one and len({one, cold, hot}) == 3


def test_info_shows_versions_threads_and_every_backend() -> None:
    from vlae_fast import backends

    result = call("info")
    assert result.exit_code == 0
    assert torch.__version__ in result.output and f"threads {torch.get_num_threads()}" in result.output
    assert backends.report() in result.output


USER_ERRORS = {
    "no checkpoint": (["evaluate", "nowhere"], "checkpoint: nowhere is not an existing folder"),
    "no data": (["train", "--data", "minst"], "--data: must be one of digits, mnist, "),
    "no folder": (["train", "--data-dir", "nowhere"], "--data-dir: must be an existing folder, got 'nowhere'"),
    "binarization": (["train", "--binarization", "median"], "must be one of dynamic, threshold"),
    "lr": (["train", "--lr", "-1", "--out", "never-made"], "error: --lr: must be finite and > 0, got -1.0"),
    "device": (["train", "--device", "abacus", "--out", "never-made"], "--device: must be auto, cpu or a cuda device"),
    "device type": (["train", "--device", "meta", "--out", "never-made"], "got 'meta': of another type"),
    "device number": (["train", "--device", "cuda:99", "--out", "never-made"], "that is there, got 'cuda:99': "),
    "both": (
        ["train", "--resume", "--overwrite", "--out", "never-made"],
        "--resume, --overwrite: at most one must be given",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), USER_ERRORS.values(), ids=USER_ERRORS.keys())
def test_user_errors_are_one_line(arguments: list[str], message: str) -> None:
    result = call(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1 and message in result.stderr


def test_user_errors_with_a_checkpoint(saved: Path, tmp_path: Path) -> None:
    cases = [
        (["sample", saved, "--temperature", 0], "--temperature: must be finite and > 0, got 0.0"),
        (["sample", saved, "--backend", "abacus"], "error: --backend must be one of"),
        (["sample", saved.parent / "nowhere"], "is not an existing folder"),
        (["evaluate", saved, "--split", "tset"], "error: --split: must be one of"),
    ]
    for arguments, message in cases:
        result = call(*arguments)
        assert result.exit_code == 2 and message in result.stderr and result.stderr.count("\n") == 1, arguments


def test_model_of_another_size(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grey = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    monkeypatch.setattr(data.datasets, "digits", lambda *_: data.Images("small", grey, grey, grey, "none"))
    result = call("evaluate", saved)
    assert result.exit_code == 2 and "images must be of the model's size (28, 28), got (8, 8)" in result.stderr


def test_interrupt_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "update", interrupt)
    result = call("train", *RUN, "--out", tmp_path)
    assert result.exit_code == 130 and result.stderr.splitlines()[-1].startswith("interrupted: nothing is saved yet")
    result = call("demo", "--out", tmp_path)  # has no --resume
    assert result.exit_code == 130 and result.stderr.endswith("interrupted: the same command starts the demo again\n")


@pytest.mark.parametrize("command", ["train", "sample", "evaluate", "info", "demo"])
def test_help(command: str) -> None:
    result = call(command, "--help")
    assert result.exit_code == 0 and "Usage: " in result.output
    units = {
        "train": "nats per image",
        "evaluate": "bits/dim",
        "sample": "images/s",
        "demo": "seconds",
    }
    assert units.get(command, "Versions") in " ".join(result.output.split())


def test_without_typer_one_message(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(SystemExit) as stop:
        __main__.main()
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"error: typer is needed here and is not installed: {_extras.INSTALL}\n"


def test_import_needs_no_extra() -> None:
    extras = ("typer", "tqdm", "matplotlib", "sklearn", "safetensors", "pooch")
    code = f"import sys; sys.modules.update(dict.fromkeys({extras})); import vlae_fast; print(vlae_fast.VLAE.__name__)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "VLAE\n", result.stderr


def test_python_m_vlae_fast() -> None:
    command = [sys.executable, "-m", "vlae_fast"]
    result = subprocess.run([*command, "evaluate", "nowhere"], capture_output=True, text=True)
    assert result.returncode == 2 and result.stdout == ""
    message = "error: checkpoint: nowhere is not an existing folder, nor a model that ships: those are "
    assert result.stderr.startswith(message) and "mnist" in result.stderr and result.stderr.count("\n") == 1


@pytest.fixture
def small_demo(small_digits: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "MODEL", demo.MODEL | {"hidden_dim": 4, "n_layers": 1})
    monkeypatch.setattr(demo, "TRAINING", demo.TRAINING | {"epochs": 1})
    monkeypatch.setattr(demo, "GRID", 2)


def test_demo_draws_equal_images_and_writes_its_files(
    small_demo: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "NAIVE_IMAGES", 2)
    for _ in range(2):  # a second demo replaces the first
        result = call("demo", "--out", tmp_path)
        assert result.exit_code == 0, result.output
    for expected in ("nats/image", "bits/dim", "images/s", "equal pixel for pixel (0 of", "ms/image", "backend"):
        assert expected in result.output
    assert "one full forward pass of model.decoder per pixel" in result.output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint", "reconstructions.png", "samples.png"]


def test_first_gaps() -> None:
    """Two channels; image 1 differs in both at its pixel 2, and later, where nothing is close; image 0 is equal."""
    noise = torch.full((2, 2, 2, 2), 0.5)
    logits = torch.full((2, 2, 2, 2), 9.0)
    fast, naive = torch.zeros(2, 2, 2, 2), torch.zeros(2, 2, 2, 2)
    assert demo.first_gaps(fast, naive, logits, noise) == []
    fast[1, :, 1] = 1
    logits[1, :, 1, 0] = torch.tensor([-0.25, 0.125])
    assert demo.first_gaps(fast, naive, logits, noise) == [0.25]
    fast[1, 0, 1, 0] = 0
    assert demo.first_gaps(fast, naive, logits, noise) == [0.125]
    noise[1, 1, 1, 0] = torch.sigmoid(torch.tensor(0.125))
    assert demo.first_gaps(fast, naive, logits, noise) == [pytest.approx(0, abs=1e-6)]


@pytest.mark.parametrize(
    ("gap", "verdict"),
    [
        (9e-6, "equal up to rounding (3 of 1,568 pixels differ, images: 1, of them 1 first"),
        (2e-5, "NOT EQUAL (3 of 1,568 pixels differ, images: 1, of them 0 first"),
    ],
)
def test_demo_allows_a_difference_at_the_threshold_only(
    small_demo: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gap: float, verdict: str
) -> None:
    naive = demo.naive_sample_with_logits

    def rounding(decoder: Any, z: torch.Tensor, noise: torch.Tensor) -> Any:
        """The last pixels of image 1 fall the other way, the first of them `gap` from its threshold."""
        images, logits = naive(decoder, z, noise)
        images[1, 0, 27, 25:] = 1 - images[1, 0, 27, 25:]
        logits = logits.double()
        logits[1, 0, 27, 25] = torch.logit(noise[1, 0, 27, 25].double()) + gap
        return Samples(images, logits)

    monkeypatch.setattr(demo, "NAIVE_IMAGES", 2)
    monkeypatch.setattr(demo, "naive_sample_with_logits", rounding)
    result = call("demo", "--out", tmp_path)
    assert verdict in result.output
    assert result.exit_code == (0 if gap < demo.GAP else 2), result.output
    assert ("the samplers disagree: 1 of 2 images" in result.stderr) == (gap > demo.GAP)


@pytest.mark.slow
def test_demo_learns_digits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The real demo, on all the digits: z carries information and the validation loss is far below its start."""
    monkeypatch.undo()
    found = demo.run(tmp_path, progress=False)
    history = checkpoint.load(tmp_path / "checkpoint").history
    assert found.wrong_images == 0 and found.speedup > 1
    assert history[-1]["valid_kl"] > 5
    assert history[-1]["valid_loss"] < 0.9 * history[0]["valid_loss"]


def test_traceback_on_demand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VLAE_FAST_TRACEBACK", "1")
    result = call("sample", tmp_path / "nowhere")
    assert isinstance(result.exception, FileNotFoundError)
