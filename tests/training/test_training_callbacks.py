"""What a run tells while it goes on: callbacks, logs beside the checkpoint, lines and bars on stderr."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from cases.runs import interrupting, new_model, run, same

from vlae_fast import VLAE, _extras, checkpoint, training
from vlae_fast.training import loop

pytest.importorskip("safetensors")
tqdm = pytest.importorskip("tqdm")


def test_every_step_and_every_epoch_is_told(tmp_path: Path) -> None:
    steps: list[tuple[int, float]] = []
    epochs: list[dict[str, float]] = []
    model = new_model()

    def on_epoch(row: dict[str, float]) -> None:
        assert checkpoint.load(tmp_path / "checkpoint").epoch == row["epoch"]  # it is written by then
        assert not model.training
        epochs.append(row)
        row["loss"] = 0.0  # the caller's copy

    history = run(model, tmp_path, epochs=2, on_step=lambda *step: steps.append(step), on_epoch=on_epoch)
    assert [number for number, _ in steps] == list(range(6))
    sizes = [16, 16, 8]  # of 40 images
    for row, told in zip(history, (steps[:3], steps[3:]), strict=True):
        mean = sum(n * loss for n, (_, loss) in zip(sizes, told, strict=True)) / 40
        assert row["loss"] == pytest.approx(mean) and row["loss"] != 0
    assert [row | {"loss": 0} for row in history] == epochs


def test_callbacks_change_nothing_of_a_run(tmp_path: Path) -> None:
    plain, told = new_model(), new_model()
    run(plain, tmp_path / "a", polyak=0.9)
    seen: list[VLAE] = []

    def on_epoch(row: dict[str, float]) -> None:
        seen.append(new_model())
        seen[-1].load_state_dict(told.state_dict())
        torch.rand(3)

    run(told, tmp_path / "b", polyak=0.9, on_epoch=on_epoch, on_step=lambda step, loss: None)
    assert same(plain, told)
    assert same(seen[-1], checkpoint.load(tmp_path / "b").model)  # the averaged weights, which are saved


def test_on_epoch_ends_the_run_by_true_alone(tmp_path: Path) -> None:
    history = run(new_model(), tmp_path, epochs=5, on_epoch=lambda row: row["epoch"] == 2)
    assert len(history) == 2 and checkpoint.load(tmp_path).epoch == 2
    assert len(run(new_model(), tmp_path, epochs=4, resume=True, on_epoch=lambda row: 1)) == 4


def test_an_error_of_a_callback_leaves_the_checkpoint_and_the_random_state(tmp_path: Path) -> None:
    def fail(row: dict[str, float]) -> None:
        raise ZeroDivisionError

    model = new_model()
    state = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError):
        run(model, tmp_path, on_epoch=fail)
    assert torch.get_rng_state().equal(state) and checkpoint.load(tmp_path).epoch == 1


def test_the_table_is_the_history_also_of_a_resumed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "update", interrupting(before=4))
    with pytest.raises(training.Interrupted):
        run(new_model(), tmp_path, epochs=3, log=["csv"])
    monkeypatch.undo()
    history = run(new_model(), tmp_path, epochs=3, log=["csv"], resume=True)
    with (tmp_path / "log.csv").open(newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    assert rows == history and sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint", "log.csv"]


def test_tensorboard_has_every_figure_of_every_epoch_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(new_model(), tmp_path, epochs=2, log=("tensorboard",))
    history = run(new_model(), tmp_path, epochs=3, log=("tensorboard",), resume=True)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    for name, figure in (("train/loss", "loss"), ("valid/kl", "valid_kl"), ("train/kl_weight", "kl_weight")):
        points = events.Scalars(name)
        assert [point.step for point in points] == [1, 2, 3]
        assert [point.value for point in points] == pytest.approx([row[figure] for row in history], rel=1e-6)


def test_wrong_logs_are_named_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="log: must be some of csv, tensorboard, got 'wandb'"):
        run(new_model(), tmp_path / "x", log=["csv", "wandb"])
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(_extras.MissingExtraError, match=r'tensorboard is needed here .* extra "log"'):
        run(new_model(), tmp_path / "x", log=["tensorboard"])
    assert not (tmp_path / "x").exists()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_has_a_bar_while_an_epoch_runs_and_a_line_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    run(new_model(), tmp_path, epochs=2, progress=True, on_step=lambda *_: None)
    shown = terminal.getvalue()
    assert "epoch 1/2:   0%|" in shown and shown.count("nats/image, ") == 2
    lines = [line.split("\r")[-1].strip() for line in shown.splitlines()]
    assert [line[:10] for line in lines if "nats/image" in line] == ["epoch 1/2:", "epoch 2/2:"]


def test_a_notebook_has_widgets_where_they_are_and_text_where_not(monkeypatch: pytest.MonkeyPatch) -> None:
    from tqdm import auto, notebook

    assert not _extras.live()

    class Widget(notebook.tqdm_notebook):
        def __init__(self, *_: Any, **__: Any) -> None:
            raise AssertionError

    monkeypatch.setattr(auto, "tqdm", Widget)
    assert _extras.live()
