"""A run of several processes is that of one, and goes on where one of them died."""

from __future__ import annotations

import math
import multiprocessing.connection
import os
import random
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from cases.processes import ended, results, start
from cases.runs import halves, new_model, run

from vlae_fast import checkpoint, training

pytest.importorskip("safetensors")
pytest.importorskip("tqdm")

RUNS: dict[str, dict[str, Any]] = {  # of 40 images: in the last batch of 15 there are 10, in that of 13 one
    "polyak": {"polyak": 0.9, "warmup_epochs": 2, "lr_schedule": "cosine", "batch_size": 15, "clip_grad": 5.0},
    "free bits": {"free_bits": 3.0, "denoise": 0.1, "batch_size": 13, "optimizer": "adamax"},
    "soft free bits": {"soft_free_bits": 3.0, "lr_schedule": "plateau", "plateau_patience": 0},
    "importance": {"objective": "iwae", "samples": 3},
    "grown": {"batch_size": 20},
}
MODELS: dict[str, dict[str, Any]] = {
    "free bits": {"posterior": "iaf"},
    "importance": {"encoder_norm": "weight"},
    "grown": {"hidden_dim": 10, "n_layers": 2, "residual": True},
}


def train(rank: int, out: str, name: str, more: dict[str, Any] | None = None) -> tuple[list[Any], dict[str, Any]]:
    """History and losses of every step of three epochs, and the model's tensors in the end."""
    torch.manual_seed(rank)  # what a process has drawn before must not matter
    model, steps = new_model(**MODELS.get(name, {})), list[tuple[int, float]]()
    options = {"epochs": 3} | RUNS[name] | (more or {})
    history = run(model, Path(out), on_step=lambda *step: steps.append(step), **options)
    return [history, steps], {key: tensor.numpy() for key, tensor in model.state_dict().items()}


def check_is_that_of_one(name: str, count: int, folder: Path, **more: Any) -> None:
    (one, steps), weights = train(0, str(folder / "1"), name, more)
    found = results(train, count, str(folder / "n"), name, more)
    for (history, theirs), tensors in found:
        assert [number for number, _ in theirs] == [number for number, _ in steps]
        for (_, a), (_, b) in zip(steps, theirs, strict=True):
            assert math.isclose(a, b, rel_tol=2e-5), (count, a, b)
        for mine, other in zip(one, history, strict=True):
            assert mine.keys() == other.keys()
            assert all(math.isclose(mine[k], other[k], rel_tol=2e-5) for k in mine.keys() - {"seconds"}), (mine, other)
        for key, tensor in tensors.items():
            assert (tensor == found[0][1][key]).all(), key  # the same bits everywhere
            assert abs(tensor - weights[key]).max() < 2e-3, key
    assert all(history == found[0][0][0] for (history, _), _ in found)
    saved = checkpoint.load(folder / "n" / "checkpoint")
    assert saved.history == found[0][0][0] and saved.training["processes"] == count
    assert all((saved.model.state_dict()[key].numpy() == tensor).all() for key, tensor in found[0][1].items())


@pytest.mark.parametrize(("name", "count"), [("polyak", 2), pytest.param("free bits", 3, marks=pytest.mark.slow)])
def test_losses_are_those_of_one_process(name: str, count: int, tmp_path: Path) -> None:
    check_is_that_of_one(name, count, tmp_path)


def test_a_grown_start_is_that_of_one_process(tmp_path: Path) -> None:
    """Each process draws new weights of its own; those of the first count."""
    run(new_model(residual=True), tmp_path / "small", epochs=1)
    check_is_that_of_one("grown", 2, tmp_path, init=str(tmp_path / "small"))


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("name", RUNS)
def test_losses_are_those_of_one_process_for_every_objective(name: str, count: int, tmp_path: Path) -> None:
    check_is_that_of_one(name, count, tmp_path)


def train_until(rank: int, out: str, deaths: dict[int, tuple[int, float]], epochs: int, overwrite: bool) -> bool:
    """Trains, and dies by SIGKILL so many seconds after so many steps."""
    steps, delay = deaths.get(rank, (-1, 0.0))
    told: list[int] = []

    def count(step: int, _: float) -> None:
        told.append(step)
        if len(told) == steps:
            timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL))
            timer.daemon = True
            timer.start()

    run(new_model(), Path(out), epochs=epochs, polyak=0.9, batch_size=13, overwrite=overwrite, on_step=count)
    return True


def restarted(out: Path, kills: int, epochs: int) -> int:
    """What torchrun does: starts both processes, and again where one died; gives how often one did."""
    chance, died = random.Random(3), 0
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True)  # torchrun's, with what the dead wrote
    for attempt in range(2 * kills + 3):
        deaths = {chance.randrange(2): (chance.randint(1, 9), chance.uniform(0, 0.02))} if died < kills else {}
        started = start(
            train_until,
            2,
            str(out),
            deaths,
            epochs,
            True,
            port=store.port,
            TORCHELASTIC_RESTART_COUNT=str(attempt),
            TORCHELASTIC_USE_AGENT_STORE="True",
        )
        multiprocessing.connection.wait([process.sentinel for process, _ in started])
        first = {rank: process.exitcode for rank, (process, _) in enumerate(started) if not process.is_alive()}
        if any(first.values()):
            for process, _ in started:
                process.kill()
        if all(one.code == 0 for one in ended(started)):
            return died
        died += any(first.get(rank) == -signal.SIGKILL for rank in deaths)
    raise AssertionError(f"{died} deaths, and no end")


def check_restarts(folder: Path, kills: int, epochs: int) -> None:
    results(train_until, 2, str(folder / "undisturbed"), {}, epochs, False)
    run(new_model(hidden_dim=8), folder / "killed", epochs=1, seed=7)  # an earlier run, that is to be overwritten
    assert restarted(folder / "killed", kills, epochs) == kills
    for name in ("model.safetensors", "optimizer.safetensors"):
        whole, killed = ((folder / of / "checkpoint" / name).read_bytes() for of in ("undisturbed", "killed"))
        assert whole == killed
    assert checkpoint.load(folder / "killed" / "checkpoint").epoch == epochs


def test_a_killed_process_loses_no_bit(tmp_path: Path) -> None:
    check_restarts(tmp_path, 2, 6)


@pytest.mark.slow
def test_twenty_kills_lose_no_bit(tmp_path: Path) -> None:
    check_restarts(tmp_path, 20, 60)


def test_a_run_goes_on_with_another_number_of_processes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The data order and the noise are those of one process, whoever draws them."""
    options = {"lr_schedule": "constant", "epochs": 2}
    results(train, 2, str(tmp_path / "both"), "polyak", options | {"epochs": 1})
    going_on = options | {"resume": True, "progress": True}
    (history, _), tensors = train(0, str(tmp_path / "both"), "polyak", going_on)
    assert "resumed after epoch 1, until which there were 2 processes" in capsys.readouterr().err
    (whole, _), expected = train(0, str(tmp_path / "one"), "polyak", options)
    assert math.isclose(history[-1]["loss"], whole[-1]["loss"], rel_tol=2e-5)
    assert all(abs(tensors[key] - expected[key]).max() < 2e-3 for key in expected)


def train_in_a_loop(rank: int, out: str) -> tuple[int, list[float]]:
    """What a TrainLoop of Ray does in each worker: the process group is there, and figures are reported each epoch."""
    store = torch.distributed.TCPStore("127.0.0.1", int(os.environ["MASTER_PORT"]), 2, rank == 0)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    told: list[float] = []

    def report(row: dict[str, float]) -> bool:
        told.append(row["valid_loss"])
        return rank == 1 and len(told) == 2  # one process wants no more

    history = training.train(
        new_model(), halves(), epochs=9, batch_size=16, out_dir=Path(out), progress=False, on_epoch=report
    )
    return len(history), told


def test_as_a_function_in_a_process_group_of_the_callers(tmp_path: Path) -> None:
    found = results(train_in_a_loop, 2, str(tmp_path))
    assert found[0] == found[1] and found[0][0] == 2 == len(found[0][1])
