"""Resumed runs are uninterrupted runs, and interruptions lose nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from cases.runs import interrupting, new_model, run, same

from vlae_fast import checkpoint, training
from vlae_fast.training import loop

pytest.importorskip("safetensors")
pytest.importorskip("tqdm")


@pytest.mark.parametrize(
    "changes",
    [
        {"lr_decay": 0.5},
        {"optimizer": "adamax", "lr_schedule": "cosine", "polyak": 0.9, "warmup_epochs": 2.5},
        {"lr_schedule": "plateau", "plateau_patience": 0, "lr": 0.05, "clip_grad": 1.0},
    ],
)
def test_resumed_is_uninterrupted_bit_for_bit(
    tmp_path: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, first, second = new_model(), new_model(), new_model()
    options = {"warmup_epochs": 2, "free_bits": 1.0} | changes
    expected = run(whole, tmp_path / "whole", epochs=4, **options)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "update", interrupting(before=7))  # of 3 steps an epoch
        with pytest.raises(training.Interrupted):
            run(first, tmp_path / "parts", epochs=4, **options)
    torch.manual_seed(99)
    torch.nn.init.normal_(second.decoder.final_conv.weight)  # what a resumed model starts from must not matter
    got = run(second, tmp_path / "parts", epochs=4, resume=True, **options)
    assert same(whole, second)
    assert [{k: v for k, v in row.items() if k != "seconds"} for row in got] == [
        {k: v for k, v in row.items() if k != "seconds"} for row in expected
    ]
    ours, theirs = (
        (tmp_path / name / "checkpoint" / "optimizer.safetensors").read_bytes() for name in ("whole", "parts")
    )
    assert ours == theirs


def test_interrupt_keeps_the_last_epoch_and_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    step = loop.update

    def interrupting(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 5:  # the second step of epoch 2
            raise KeyboardInterrupt
        return step(*args)

    monkeypatch.setattr(loop, "update", interrupting)
    with pytest.raises(training.Interrupted, match=r"last good checkpoint is .*checkpoint, epoch 1; .*--resume"):
        run(new_model(), tmp_path)
    resumed, whole = new_model(), new_model()
    run(resumed, tmp_path, resume=True)
    run(whole, tmp_path / "whole")
    assert same(resumed, whole)


def test_interrupt_in_the_first_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "update", interrupt)
    with pytest.raises(training.Interrupted, match=r"nothing is saved yet .*; the same command starts again$"):
        run(new_model(), tmp_path)
    assert not checkpoint.exists(tmp_path / "checkpoint")


@pytest.mark.parametrize("damaged", [False, True])
def test_interrupt_while_overwriting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: bool) -> None:
    """Until the first save the checkpoint is that of the run to be replaced: neither ours nor one to resume."""
    run(new_model(), tmp_path, epochs=2)
    weights, step = tmp_path / "checkpoint" / "model.safetensors", loop.update
    if damaged:
        weights.write_bytes(b"")
    before, left = weights.read_bytes(), [0]

    def interrupting(*args: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return step(*args)

    monkeypatch.setattr(loop, "update", interrupting)
    with pytest.raises(training.Interrupted) as interrupt:
        run(new_model(), tmp_path, overwrite=True, seed=1)
    assert f"the earlier run in {tmp_path / 'checkpoint'} is still there, untouched" in str(interrupt.value)
    assert "last good" not in str(interrupt.value) and "resume" not in str(interrupt.value)
    assert weights.read_bytes() == before
    left[0] = 4  # the second step of epoch 2
    with pytest.raises(training.Interrupted, match=r"last good .*, epoch 1; .* with --resume instead of --overwrite"):
        run(new_model(), tmp_path, overwrite=True, seed=1)
    assert checkpoint.load(tmp_path / "checkpoint").training["seed"] == 1


def test_a_non_finite_loss_while_overwriting(tmp_path: Path) -> None:
    run(new_model(), tmp_path, epochs=2)
    model = new_model()
    torch.nn.init.constant_(model.decoder.final_conv.bias, float("nan"))
    with pytest.raises(ValueError, match=r"epoch 1, step 1: the loss is nan.*the earlier run in .* untouched"):
        run(model, tmp_path, overwrite=True)


def test_existing_run_is_not_overwritten_unasked(tmp_path: Path) -> None:
    run(new_model(), tmp_path, epochs=2)
    with pytest.raises(ValueError, match="checkpoint exists: resume or overwrite it"):
        run(new_model(), tmp_path)
    assert len(run(new_model(), tmp_path, epochs=1, overwrite=True)) == 1


def test_resume_and_overwrite_contradict_each_other(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"resume, overwrite: at most one must be given .*, got both"):
        run(new_model(), tmp_path, resume=True, overwrite=True)
    assert not any(tmp_path.iterdir())


def test_resume_needs_every_figure(tmp_path: Path) -> None:
    run(new_model(), tmp_path, epochs=1)
    path = tmp_path / "checkpoint" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"history": [{"epoch": 1, "kl": 2.0, "loss": 3.0}]}))
    with pytest.raises(
        ValueError, match=r"resume: history must have every figure .*, got no bits_per_dim, .* of epoch 1"
    ):
        run(new_model(), tmp_path, resume=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 1e-4}, "resume: lr must be that of .*, 0.005, got 0.0001"),
        ({"seed": 3}, "resume: seed must be that of .*, 0, got 3"),
    ],
)
def test_resume_needs_the_same_settings(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    run(new_model(), tmp_path, epochs=1)
    with pytest.raises(ValueError, match=message):
        run(new_model(), tmp_path, resume=True, **change)
    with pytest.raises(ValueError, match="resume: model must be that of"):
        run(new_model(hidden_dim=4), tmp_path, resume=True)


def test_resume_of_a_cosine_needs_the_same_epochs(tmp_path: Path) -> None:
    run(new_model(), tmp_path, epochs=1, lr_schedule="cosine")
    with pytest.raises(ValueError, match=r"resume: epochs must be that of .*, 1, got 2"):
        run(new_model(), tmp_path, epochs=2, lr_schedule="cosine", resume=True)
    with pytest.raises(ValueError, match=r"resume: lr_schedule must be that of .*, 'cosine', got 'constant'"):
        run(new_model(), tmp_path, epochs=1, resume=True)


def test_resume_of_a_run_from_before_a_setting_came(tmp_path: Path) -> None:
    run(new_model(), tmp_path, epochs=1)
    path = tmp_path / "checkpoint" / "config.json"
    config = json.loads(path.read_text())
    for name in ("optimizer", "lr_schedule", "polyak", "path_derivative"):
        del config["training"][name]
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"resume: path_derivative must be that of .*, False, got True"):
        run(new_model(), tmp_path, epochs=2, resume=True)
    assert len(run(new_model(), tmp_path, epochs=2, resume=True, path_derivative=False)) == 2
