"""training.py: loss falls, resumed runs are uninterrupted runs, failures lose nothing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from vlae_fast import VLAE, checkpoint, data, training

pytest.importorskip("safetensors")
pytest.importorskip("tqdm")


@pytest.fixture(scope="module")
def images() -> data.Images:
    """Grey 8x8 pictures of two kinds, left half or right half light, so that there is something to learn."""
    generator = torch.Generator().manual_seed(0)
    right = torch.rand(60, 1, 1, 1, generator=generator) < 0.5
    light = (torch.arange(8) >= 4) == right
    grey = torch.where(light, 230, 25).to(torch.uint8).expand(60, 1, 8, 8).contiguous()
    return data.Images("halves", grey[:40], grey[40:50], grey[50:], "40/10/10")


def new_model(**changes: Any) -> VLAE:
    torch.manual_seed(0)
    sizes = {"input_dim": 1, "latent_dim": 2, "hidden_dim": 8, "n_layers": 1, "image_size": (8, 8), "flow_hidden": 8}
    return VLAE(**(sizes | changes))  # type: ignore[arg-type]


def run(model: VLAE, images: data.Images, out: Path, **options: Any) -> training.History:
    settings = {"epochs": 2, "batch_size": 16, "lr": 5e-3, "progress": False} | options
    return training.train(model, images, out_dir=out, **settings)


def same(a: VLAE, b: VLAE) -> bool:
    return all(x.equal(y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_loss_falls_and_figures_add_up(images: data.Images, tmp_path: Path) -> None:
    model = new_model()
    history = run(model, images, tmp_path, epochs=12)
    assert [row["epoch"] for row in history] == list(range(1, 13))
    assert history[-1]["valid_loss"] < 0.8 * history[0]["valid_loss"]
    for row in history:
        for prefix in ("", "valid_"):
            assert row[prefix + "loss"] == pytest.approx(row[prefix + "reconstruction"] + row[prefix + "kl"])
            assert row[prefix + "bits_per_dim"] == pytest.approx(row[prefix + "loss"] / (64 * math.log(2)))
    found = checkpoint.load(tmp_path / "checkpoint")
    assert same(found.model, model) and found.history == history and found.epoch == 12
    assert found.training["data"] == "halves" and not model.training


def test_resumed_is_uninterrupted_bit_for_bit(images: data.Images, tmp_path: Path) -> None:
    whole, first, second = new_model(), new_model(), new_model()
    options = {"warmup_epochs": 2, "free_bits": 1.0, "lr_decay": 0.5}
    expected = run(whole, images, tmp_path / "whole", epochs=4, **options)
    run(first, images, tmp_path / "parts", epochs=2, **options)
    torch.manual_seed(99)
    torch.nn.init.normal_(second.decoder.final_conv.weight)  # what a resumed model starts from must not matter
    got = run(second, images, tmp_path / "parts", epochs=4, resume=True, **options)
    assert same(whole, second)
    assert [{k: v for k, v in row.items() if k != "seconds"} for row in got] == [
        {k: v for k, v in row.items() if k != "seconds"} for row in expected
    ]
    ours, theirs = (
        (tmp_path / name / "checkpoint" / "optimizer.safetensors").read_bytes() for name in ("whole", "parts")
    )
    assert ours == theirs


def test_same_seed_same_model_and_the_random_state_is_left_alone(images: data.Images, tmp_path: Path) -> None:
    models = [new_model() for _ in range(3)]
    for i, (model, seed) in enumerate(zip(models, (0, 0, 1), strict=True)):
        torch.manual_seed(i)
        state = torch.get_rng_state()
        run(model, images, tmp_path / str(i), epochs=1, seed=seed)
        assert torch.get_rng_state().equal(state)
    assert same(models[0], models[1]) and not same(models[0], models[2])


def test_interrupt_keeps_the_last_epoch_and_says_how_to_go_on(
    images: data.Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    step = training._step

    def interrupting(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 5:  # the second step of epoch 2
            raise KeyboardInterrupt
        return step(*args)

    monkeypatch.setattr(training, "_step", interrupting)
    with pytest.raises(training.Interrupted, match=r"last good checkpoint is .*checkpoint, epoch 1; .*--resume"):
        run(new_model(), images, tmp_path)
    resumed, whole = new_model(), new_model()
    run(resumed, images, tmp_path, resume=True)
    run(whole, images, tmp_path / "whole")
    assert same(resumed, whole)


def test_interrupt_in_the_first_epoch(images: data.Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "_step", interrupt)
    with pytest.raises(training.Interrupted, match="nothing is saved yet"):
        run(new_model(), images, tmp_path)
    assert not checkpoint.exists(tmp_path / "checkpoint")


def test_non_finite_loss_names_step_checkpoint_and_remedy(
    images: data.Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = new_model()
    run(model, images, tmp_path, epochs=1)
    good = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def exploding(epoch: training.Settings, number: int) -> float:
        torch.nn.init.constant_(model.decoder.final_conv.bias, float("nan"))
        return 1.0

    monkeypatch.setattr(training.Settings, "beta", exploding)
    message = r"epoch 2, step 1: the loss is nan, which must be finite; .*epoch 1; try a lower lr"
    with pytest.raises(ValueError, match=message):
        run(model, images, tmp_path, resume=True)
    found = checkpoint.load(tmp_path / "checkpoint").model.state_dict()
    assert all(found[name].equal(tensor) for name, tensor in good.items())


def test_free_bits_cost_nothing(images: data.Images, tmp_path: Path) -> None:
    """With more free bits than the KL has, the prior is never asked: its parameters stay as they were."""
    model, start = new_model(), new_model()
    run(model, images, tmp_path, free_bits=1e6)
    for (name, ours), before in zip(model.named_parameters(), start.parameters(), strict=True):
        assert ours.equal(before) == name.startswith("prior."), name


def test_warm_up_rises_to_one() -> None:
    settings = training.Settings(warmup_epochs=3)
    assert [settings.beta(epoch) for epoch in range(1, 7)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert training.Settings().beta(1) == 1


def test_step_size_decays_per_epoch(images: data.Images, tmp_path: Path) -> None:
    settings = training.Settings(lr=0.4, lr_decay=0.5)
    assert [settings.lr_in(epoch) for epoch in (1, 2, 3)] == [0.4, 0.2, 0.1]
    stopped, going = new_model(), new_model()
    run(stopped, images, tmp_path / "a", epochs=3, lr_decay=1e-9)  # the second and third epoch barely move
    run(going, images, tmp_path / "b", epochs=1)
    for ours, theirs in zip(stopped.parameters(), going.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_time_limit_stops_after_an_epoch(images: data.Images, tmp_path: Path) -> None:
    history = run(new_model(), images, tmp_path, epochs=50, time_limit=0.0)
    assert len(history) == 1 and checkpoint.load(tmp_path / "checkpoint").epoch == 1


def test_existing_run_is_not_overwritten_unasked(images: data.Images, tmp_path: Path) -> None:
    run(new_model(), images, tmp_path, epochs=2)
    with pytest.raises(ValueError, match="checkpoint exists: resume or overwrite it"):
        run(new_model(), images, tmp_path)
    assert len(run(new_model(), images, tmp_path, epochs=1, overwrite=True)) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 1e-4}, "resume: lr must be that of .*, 0.005, got 0.0001"),
        ({"seed": 3}, "resume: seed must be that of .*, 0, got 3"),
    ],
)
def test_resume_needs_the_same_settings(
    images: data.Images, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    run(new_model(), images, tmp_path, epochs=1)
    with pytest.raises(ValueError, match=message):
        run(new_model(), images, tmp_path, resume=True, **change)
    with pytest.raises(ValueError, match="resume: model must be that of"):
        run(new_model(hidden_dim=4), images, tmp_path, resume=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs: must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size: must be at least 1, got 0"),
        ({"lr": 0.0}, "lr: must be finite and > 0, got 0.0"),
        ({"lr": float("nan")}, "lr: must be finite and > 0, got nan"),
        ({"lr_decay": 0.0}, "lr_decay: must be > 0 and <= 1, got 0.0"),
        ({"free_bits": -1.0}, "free_bits: must be finite and >= 0, got -1.0"),
        ({"warmup_epochs": -1}, "warmup_epochs: must be finite and >= 0, got -1"),
    ],
)
def test_bad_arguments(images: data.Images, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(new_model(), images, tmp_path, **change)
    assert not any(tmp_path.iterdir())


def test_progress_shows_units(images: data.Images, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(new_model(), images, tmp_path, epochs=1, progress=True)
    shown = capsys.readouterr().err
    assert "nats/image" in shown and "bits/dim" in shown and "epoch 1/1" in shown
