"""Values that change with the step: step size, weight of the KL, the average of the weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from cases.runs import halves, new_model, run, same
from torch import Tensor

from vlae_fast import VLAE, checkpoint, training
from vlae_fast.evaluation import evaluate
from vlae_fast.training import loop, objective
from vlae_fast.training.average import Average
from vlae_fast.training.settings import Schedule, Settings

pytest.importorskip("safetensors")
pytest.importorskip("tqdm")


def test_every_step_has_its_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step, weights = loop.update, []

    def noting(*args: Any) -> Any:
        weights.append(args[4])  # kl_weight
        return step(*args)

    monkeypatch.setattr(loop, "update", noting)
    history = run(new_model(), tmp_path, epochs=3, batch_size=20, warmup_epochs=2)
    assert [row["kl_weight"] for row in history] == pytest.approx([0.4, 0.8, 1])
    assert weights == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])


def test_warm_up_rises_to_one() -> None:
    schedule = Schedule(training.Settings(warmup_epochs=1.5), epochs=3, steps=2)
    assert [schedule.kl_weight(step) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert Schedule(training.Settings(), epochs=3, steps=2).kl_weight(0) == 1


def test_cosine_falls_to_zero_over_all_steps() -> None:
    schedule = Schedule(training.Settings(lr=0.4, lr_schedule="cosine"), epochs=2, steps=2)
    half = math.sqrt(0.5)
    expected = [0.4, 0.2 * (1 + half), 0.2, 0.2 * (1 - half), 0]
    assert [schedule.lr(step) for step in range(5)] == pytest.approx(expected, abs=1e-15)
    decayed = Schedule(training.Settings(lr=0.4, lr_schedule="cosine", lr_decay=0.5), epochs=2, steps=2)
    assert decayed.lr(3) == pytest.approx(expected[3] / 2)


def test_every_step_has_its_step_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step, sizes = loop.update, []

    def noting(model: VLAE, optimizer: torch.optim.Optimizer, *args: Any) -> Any:
        sizes.append(optimizer.param_groups[0]["lr"])
        return step(model, optimizer, *args)

    monkeypatch.setattr(loop, "update", noting)
    run(new_model(), tmp_path, epochs=2, batch_size=20, lr=1e-3, lr_schedule="cosine")
    half = math.sqrt(0.5)
    assert sizes == pytest.approx([1e-3, 5e-4 * (1 + half), 5e-4, 5e-4 * (1 - half)])


def test_step_size_decays_per_epoch(tmp_path: Path) -> None:
    schedule = Schedule(training.Settings(lr=0.4, lr_decay=0.5), epochs=3, steps=2)
    assert [schedule.lr(step) for step in range(6)] == [0.4, 0.4, 0.2, 0.2, 0.1, 0.1]
    stopped, going = new_model(), new_model()
    run(stopped, tmp_path / "a", epochs=3, lr_decay=1e-9)  # the second and third epoch barely move
    run(going, tmp_path / "b", epochs=1)
    for ours, theirs in zip(stopped.parameters(), going.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def plateau(losses: Sequence[float], **settings: Any) -> list[float]:
    """The factor on the step size before each epoch."""
    schedule = Schedule(training.Settings(lr_schedule="plateau", **settings), epochs=1, steps=1)
    return [schedule.plateau(losses[:epoch]) for epoch in range(len(losses) + 1)]


def test_plateau_is_that_of_torch() -> None:
    """Losses that fall by more and by less than the threshold, stay, and rise."""
    falling, slowly = [100.0 - 3 * i for i in range(9)], [76.0 - 0.005 * i for i in range(14)]
    losses = falling + slowly + [75.0, 75.5, 74.9, 80.0, 74.0, 73.0] + [73.0] * 14
    for patience, factor in ((0, 0.5), (2, 0.5), (5, 0.1)):
        parameter = torch.nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD([parameter], lr=1.0)
        theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, "min", factor, patience, eps=0)
        expected = [1.0]
        for loss in losses:
            theirs.step(loss)
            expected.append(optimizer.param_groups[0]["lr"])
        assert plateau(losses, plateau_factor=factor, plateau_patience=patience) == expected
        assert len(set(expected)) > 2


def test_plateau_of_negative_losses() -> None:
    """A density may be above 1: -9.9995 is no better than -10, and -10.002 is."""
    assert plateau([-10.0, -9.9995, -10.002, -10.0021], plateau_patience=0, plateau_factor=0.5) == [
        1,
        1,
        0.5,
        0.5,
        0.25,
    ]


def test_plateau_multiplies_the_step_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No loss is better than the first where nothing moves; of each two epochs the second is one too many."""
    settings = {"lr": 1e-12, "lr_schedule": "plateau", "plateau_patience": 1, "plateau_factor": 0.5}
    history = run(new_model(), tmp_path, epochs=6, **settings)
    assert [row["lr"] for row in history] == pytest.approx([1e-12 * x for x in (1, 1, 1, 0.5, 0.5, 0.25)])
    assert Schedule(training.Settings(), epochs=1, steps=1).plateau([1.0] * 99) == 1


def test_gradients_are_clipped_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first step is by the unclipped gradient, shrunk to the norm asked for; a large norm is none."""
    grads: dict[str, list[Tensor]] = {}

    def gradients(model: VLAE) -> list[Tensor]:
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    step = loop.update
    for name, clip in (("none", 0.0), ("clipped", 0.5), ("large", 1e9)):

        def noting(model: VLAE, *args: Any, name: str = name) -> Any:
            done = step(model, *args)
            grads.setdefault(name, gradients(model))
            return done

        monkeypatch.setattr(loop, "update", noting)
        run(new_model(), tmp_path / name, epochs=1, clip_grad=clip)
    norm = torch.stack([g.norm() for g in grads["none"]]).norm()
    assert norm > 1
    for plain, clipped, large in zip(*grads.values(), strict=True):
        torch.testing.assert_close(clipped, plain * 0.5 / norm)
        assert large.equal(plain)


def test_polyak_average_by_hand() -> None:
    """Weights 1, 2, 4 after three steps with D = 1/2: (1/4 + 2/2 + 4) / (1/4 + 1/2 + 1)."""
    model = torch.nn.Linear(1, 1)
    average = Average(model, 0.5)
    for step, value in enumerate((1.0, 2.0, 4.0)):
        for parameter in model.parameters():
            torch.nn.init.constant_(parameter, value)
        average.update(step)
    with average.in_place() as trained:
        assert [p.item() for p in model.parameters()] == pytest.approx([3.0, 3.0])
        assert [t.item() for t in trained.values()] == [4.0, 4.0]
    assert [p.item() for p in model.parameters()] == [4.0, 4.0]


def test_polyak_average_is_validated_saved_and_left_in_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, averaged, step, weights = new_model(), new_model(), loop.update, []
    run(plain, tmp_path / "plain")

    def noting(model: VLAE, *args: Any) -> Any:
        weights.append(model.decoder.final_conv.weight.detach().clone())
        return step(model, *args)

    monkeypatch.setattr(loop, "update", noting)
    history = run(averaged, tmp_path / "averaged", polyak=0.5)
    weights = [*weights[1:], plain.decoder.final_conv.weight.detach()]  # after each step; training is that of `plain`
    expected = sum(0.5 ** (5 - i) * w for i, w in enumerate(weights)) / sum(0.5**i for i in range(6))
    found = checkpoint.load(tmp_path / "averaged" / "checkpoint")
    torch.testing.assert_close(found.model.decoder.final_conv.weight.detach(), expected)
    assert same(found.model, averaged) and not same(averaged, plain)
    assert history[-1]["valid_kl"] == evaluate(averaged, halves(), "valid").kl


@pytest.mark.parametrize(("name", "fused"), [("adam", True), ("adamax", None)])
def test_steps_of_adam_are_one_pass(name: str, fused: bool | None) -> None:
    model = VLAE(1, 2, 4, 1, image_size=(6, 6))
    optimizer = objective.make_optimizer(Settings(optimizer=name), model, torch.device("cpu"))
    assert optimizer.defaults.get("fused") is fused
