"""`train --init`: a run from a checkpoint's weights."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path

import pytest
import torch

pytest.importorskip("typer")
from cases.commands import SIZE, call, small_images, trained
from cases.runs import same

from vlae_fast import VLAE, checkpoint, data, training

SHORT = ["--epochs", 1, "--batch-size", 20, "--device", "cpu"]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("first"), latent_dim=4)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "load", small_images)


def test_the_model_is_the_checkpoints_whatever_a_preset_says_and_the_settings_are_free(
    first: Path, tmp_path: Path
) -> None:
    tuning = ["--objective", "iwae", "--samples", 2, "--lr", 1e-12, "--polyak", 0.5]
    result = call("train", "--init", first, "--preset", "mlp-vae-256", *tuning, *SHORT, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert f"starts from {first}, epoch 2\n" in result.output
    before, after = checkpoint.load(first), checkpoint.load(tmp_path)
    assert after.model.config == before.model.config and after.epoch == 1
    assert after.training["clip_grad"] == 1.0, "of the preset"
    assert (after.training["init"], after.training["objective"]) == (str(first), "iwae")
    for ours, theirs in zip(after.model.parameters(), before.model.parameters(), strict=True):
        assert ours.allclose(theirs, atol=1e-8)


def test_larger_options_grow_the_model_and_equal_ones_are_no_contradiction(first: Path, tmp_path: Path) -> None:
    loss = checkpoint.load(first).history[-1]["valid_loss"]
    larger = ["--hidden-dim", 6, "--flow-steps", 3, "--latent-dim", 4, "--lr", 1e-12]
    result = call("train", "--init", first.parent, *larger, *SHORT, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert re.search(r"starts from \S+, epoch 2; hidden_dim 4 -> 6; flow_steps 2 -> 3\n", result.output)
    found = checkpoint.load(tmp_path)
    assert (found.model.config["hidden_dim"], found.model.config["flow_steps"]) == (6, 3)
    assert found.history[-1]["valid_loss"] == pytest.approx(loss, rel=1e-5)
    resumed = call("train", "--init", first.parent, *larger, *SHORT, "--out", tmp_path, "--resume")
    assert resumed.exit_code == 0 and same(checkpoint.load(tmp_path).model, found.model), resumed.output


def test_a_run_goes_on_where_its_origin_is_gone_and_does_not_replace_it(first: Path, tmp_path: Path) -> None:
    origin = Path(shutil.copytree(first, tmp_path / "origin" / "checkpoint")).parent
    start = ["train", "--init", origin, *SHORT[2:], "--epochs", 2]
    refused = call(*start, "--out", origin, "--overwrite")
    assert refused.exit_code == 2
    assert refused.stderr == f"error: --init: must not be the run that --overwrite replaces, {origin}, got {origin}\n"
    out = tmp_path / "out"
    assert call(*start, "--hidden-dim", 6, "--out", out).exit_code == 0
    shutil.rmtree(origin)
    resumed = call(*start, "--out", out, "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert f"goes on from {out / 'checkpoint'}, epoch 2\n" in resumed.output


def test_a_class_conditional_model_stays_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = VLAE(1, 2, 4, 1, image_size=SIZE, flow_hidden=8, n_classes=3)
    training.train(model, small_images(), epochs=1, batch_size=30, out_dir=tmp_path / "a", progress=False)
    result = call("train", "--init", tmp_path / "a", *SHORT, "--classes", "0,1", "--out", tmp_path / "b")
    assert result.exit_code == 0 and checkpoint.load(tmp_path / "b").model.n_classes == 3, result.output
    monkeypatch.setattr(data, "load", lambda *_, **__: dataclasses.replace(small_images(), labels=None))
    result = call("train", "--init", tmp_path / "a", *SHORT, "--out", tmp_path / "c")
    rule = "must have labels, of no more classes than the 3 of the checkpoint of --init"
    assert result.exit_code == 2 and result.stderr == f"error: --data: {rule}, got 0\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--latent-dim", 8], r"--latent-dim must be that of the model to start from, 4, since only .*, got 8"),
        (["--hidden-dim", 2], r"--hidden-dim must be at least that of the model to start from, 4, got 2"),
        (["--n-layers", 2], r"--n-layers must be .*, 1, where the decoder has no residual, .*, got 2"),
        (["--decoder", "mlp"], r"--decoder must be that of .*, 'gated', since only .* can grow, got 'mlp'"),
        (["--kernel-size", 5], r"--kernel-size must be that of .*, 3, since only .* can grow, got 5"),
        (["--image-size", "9"], r"--image-size: must be that of the checkpoint of --init, \(8, 8\), got \(9, 9\)"),
        (["--labels"], r"--labels: must not be given where the checkpoint of --init is of a model without classes"),
        (["--binarization", "none"], r"--data: images must have the model's 2 levels, got 256: see --binarization"),
    ],
)
def test_what_contradicts_the_checkpoint_is_said(
    options: list[object], message: str, first: Path, tmp_path: Path
) -> None:
    result = call("train", "--init", first, *options, *SHORT, "--out", tmp_path / "out")
    assert result.exit_code == 2 and re.fullmatch(f"error: {message}\n", result.stderr), result.stderr
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_that_is_not_there_and_the_models_that_ship(tmp_path: Path) -> None:
    result = call("train", "--init", "nothing", *SHORT, "--out", tmp_path)
    assert result.exit_code == 2
    assert re.search(r"nothing is not an existing folder, nor a model that ships: those are .*mnist", result.stderr)


def test_evaluate_keeps_the_memory_that_it_frees(first: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bool] = []
    monkeypatch.setattr(training, "keep_freed_memory", lambda: calls.append(True))
    assert call("evaluate", first, "--samples", 2, "--limit", 4).exit_code == 0
    assert calls == [True]
