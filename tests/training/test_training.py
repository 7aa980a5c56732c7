"""training: loss falls, figures add up, failures are named."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from cases.runs import new_model, run, same

from vlae_fast import checkpoint
from vlae_fast.training import loop
from vlae_fast.training.settings import Schedule

pytest.importorskip("safetensors")
pytest.importorskip("tqdm")


def test_loss_falls_and_figures_add_up(tmp_path: Path) -> None:
    model = new_model()
    history = run(model, tmp_path, epochs=12)
    assert [row["epoch"] for row in history] == list(range(1, 13))
    assert history[-1]["valid_loss"] < 0.8 * history[0]["valid_loss"]
    for row in history:
        for prefix in ("", "valid_"):
            assert row[prefix + "loss"] == pytest.approx(row[prefix + "reconstruction"] + row[prefix + "kl"])
            assert row[prefix + "bits_per_dim"] == pytest.approx(row[prefix + "loss"] / (64 * math.log(2)))
    found = checkpoint.load(tmp_path / "checkpoint")
    assert same(found.model, model) and found.history == history and found.epoch == 12
    assert found.training["data"] == "halves" and not model.training


def test_same_seed_same_model_and_the_random_state_is_left_alone(tmp_path: Path) -> None:
    models = [new_model() for _ in range(3)]
    for i, (model, seed) in enumerate(zip(models, (0, 0, 1), strict=True)):
        torch.manual_seed(i)
        state = torch.get_rng_state()
        run(model, tmp_path / str(i), epochs=1, seed=seed)
        assert torch.get_rng_state().equal(state)
    assert same(models[0], models[1]) and not same(models[0], models[2])


def test_non_finite_loss_names_step_checkpoint_and_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = new_model()
    run(model, tmp_path, epochs=1)
    good = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def exploding(schedule: Schedule, step: int) -> float:
        if step == 4:  # of 3 steps an epoch
            torch.nn.init.constant_(model.decoder.final_conv.bias, float("nan"))
        return 1.0

    monkeypatch.setattr(Schedule, "kl_weight", exploding)
    message = r"epoch 2, step 2: the loss is nan, which must be finite; .*epoch 1; try a lower lr"
    with pytest.raises(ValueError, match=message):
        run(model, tmp_path, resume=True)
    found = checkpoint.load(tmp_path / "checkpoint").model.state_dict()
    assert all(found[name].equal(tensor) for name, tensor in good.items())


def test_time_limit_stops_after_an_epoch(tmp_path: Path) -> None:
    history = run(new_model(), tmp_path, epochs=50, time_limit=0.0)
    assert len(history) == 1 and checkpoint.load(tmp_path / "checkpoint").epoch == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs: must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size: must be at least 1, got 0"),
        ({"lr": 0.0}, "lr: must be finite and > 0, got 0.0"),
        ({"lr": float("nan")}, "lr: must be finite and > 0, got nan"),
        ({"lr_decay": 0.0}, "lr_decay: must be > 0 and <= 1, got 0.0"),
        ({"free_bits": -1.0}, "free_bits: must be finite and >= 0, got -1.0"),
        ({"polyak": 1.0}, "polyak: must be >= 0 and < 1, got 1.0"),
        ({"optimizer": "sgd"}, "optimizer: must be one of adam, adamax, got 'sgd'"),
        ({"lr_schedule": "step"}, "lr_schedule: must be one of constant, cosine, plateau, got 'step'"),
        ({"plateau_factor": 1.0}, "plateau_factor: must be > 0 and < 1, got 1.0"),
        ({"plateau_patience": -1}, "plateau_patience: must be at least 0, got -1"),
        ({"clip_grad": -1.0}, "clip_grad: must be finite and >= 0, got -1.0"),
        ({"warmup_epochs": -1}, "warmup_epochs: must be finite and >= 0, got -1"),
    ],
)
def test_bad_arguments(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(new_model(), tmp_path, **change)
    assert not any(tmp_path.iterdir())


def test_progress_shows_units(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(new_model(), tmp_path, epochs=1, progress=True)
    shown = capsys.readouterr().err
    assert "nats/image" in shown and "bits/dim" in shown and "epoch 1/1" in shown


def test_layers_are_initialised_by_data_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = []
    monkeypatch.setattr(loop, "initialize", lambda model, x, labels: batches.append(x))
    run(new_model(), tmp_path, epochs=2)
    run(new_model(), tmp_path, epochs=3, resume=True)
    assert [len(x) for x in batches] == [16]
