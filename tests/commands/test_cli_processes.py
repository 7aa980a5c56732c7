"""Commands of several processes: one of them speaks, and an error is said once, where it is."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from cases.commands import call
from cases.deadline import slow_where
from cases.processes import ended, results, start

from vlae_fast import VLAE, checkpoint

pytest.importorskip("typer")

SMALL = ["--hidden-dim", 8, "--n-layers", 1, "--latent-dim", 2, "--flow-hidden", 8, "--epochs", 1, "--device", "cpu"]


def train(rank: int, out: str, options: list[list[Any]], without: str = "") -> tuple[int, str]:
    """The exit code and everything that `train` prints, with the options of this rank."""
    if without:
        setattr(torch.distributed, without, lambda: False)
    result = call("train", *SMALL, "--out", out, *options[rank])
    return result.exit_code, result.output


def said(count: int, *args: Any, **more: Any) -> list[tuple[int, str]]:
    found = [one.value for one in ended(start(train, count, *args, **more))]
    assert all(isinstance(value, tuple) for value in found), found
    return found


def test_one_process_speaks(tmp_path: Path) -> None:
    (code, first), (other, nothing) = said(2, str(tmp_path), [[], []])
    assert (code, other, nothing) == (0, 0, ""), first
    assert "2 processes share each batch of 64" in first
    assert len(re.findall("parameters", first)) == 1 and (tmp_path / "checkpoint" / "config.json").is_file()


@slow_where(lambda message, **_: "nowhere" not in message)  # every case starts processes
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            [["--lr", 0.001], ["--lr", 0.002]],
            r"^error: process \d of 2: --lr: must be the same in every process, got 0\.001 in process 0 and 0\.002 in "
            r"process 1$",
        ),
        ([[], ["--data-dir", "nowhere"]], r"^error: process 1 of 2: .*nowhere"),
        ([["--batch-size", 1]] * 2, r"^error: process \d of 2: --batch-size: must be at least 2, an image a process"),
        (
            [["--encoder", "strided", "--encoder-norm", "batch"]] * 2,
            r"^error: process \d of 2: .*no batch normalisation in 2 processes, got encoder",
        ),
    ],
)
def test_an_error_is_said_once(tmp_path: Path, options: list[list[Any]], message: str) -> None:
    found = said(2, str(tmp_path), options)
    errors = [line for _, text in found for line in text.splitlines() if line.startswith("error")]
    assert [code for code, _ in found] == [2, 2] and len(errors) == 1, found
    assert re.search(message, errors[0]), errors
    assert not (tmp_path / "checkpoint").exists()


@pytest.mark.parametrize("words", [["train", "--nope"], ["train", "--epochs", "x"], ["nope"], ["--nope"]])
def test_a_command_line_that_is_wrong_is_said_by_the_first(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    said = []
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        result = call(*words)
        said.append(result.output)
        assert result.exit_code == 2
    assert "Error: " in said[0] and said[1] == ""


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = start(train, 2, str(tmp_path), [[], []], port=port)
        (one,) = ended(process[:1])
        process[1][0].kill()
    assert one.value[0] == 2
    assert f"error: MASTER_PORT: must be free at MASTER_ADDR 127.0.0.1, got {port}, which is in use" in one.value[1]


def test_a_backend_that_is_not_built(tmp_path: Path) -> None:
    found = said(2, str(tmp_path), [[], []], "is_gloo_available")
    assert found == [
        (2, "error: processes: more than one need a torch that is built with gloo, and this one is not\n"),
        (2, ""),
    ]


def test_a_command_for_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = call("info")
    assert result.exit_code == 2 and "WORLD_SIZE: must be 1, for several processes do not share this" in result.output
    monkeypatch.setenv("RANK", "1")
    assert call("info").output == ""


def test_half_an_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    for name in ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    result = call("train", *SMALL, "--out", tmp_path)
    assert result.exit_code == 2 and "WORLD_SIZE: must be set where RANK is" in result.output


def use(rank: int, folder: str, out: str) -> list[tuple[int, str]]:
    """What `sample` and `evaluate` print."""
    calls = [
        ["sample", folder, "-n", 7, "--per-shard", 2, "--out", f"{out}/images"],
        ["evaluate", folder, "--limit", 4, "--samples", 3, "--batch-size", 2, "--keep", f"{out}/nll"],
        ["sample", folder, "--out", f"{out}/samples.png"],
    ]
    found = [call(*words, "--device", "cpu") for words in calls]
    return [(result.exit_code, result.stdout + "".join(re.findall("error.*\n", result.stderr))) for result in found]


def test_sample_and_evaluate(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, folder = VLAE(1, 2, 4, 1, image_size=(28, 28), flow_hidden=8), str(tmp_path / "checkpoint")
    checkpoint.save(folder, model, torch.optim.Adam(model.parameters()), epoch=0, training={}, history=[])
    both, one = results(use, 2, folder, str(tmp_path / "2")), use(0, folder, str(tmp_path / "1"))
    (sampled, evaluated, refused), silence = both
    assert sampled[0] == 0 and re.match(r"7 images in 4 files: .* images/s\); 2 processes; .*images$", sampled[1])
    for name in ("index.json", *(f"shard-0000{i}.npz" for i in range(4))):
        first, second = ((tmp_path / count / "images" / name).read_bytes() for count in "12")
        assert first == second
    assert evaluated == one[1] and evaluated[0] == 0 and "NLL at most" in evaluated[1]
    assert silence[:2] == [(0, ""), (0, "")] and (refused[0], silence[2][0], one[2][0]) == (2, 2, 0)
    nothing, error = sorted([refused[1], silence[2][1]])  # either of the two speaks
    assert nothing == "" and "--out: must be a folder in 2 processes, which share its files" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sample", "--out", "LICENSE"], "--out: must be a folder for files of images, got the file"),
        (["evaluate", "--keep", "nowhere"], "--keep: must not be given without --samples"),
        (["evaluate", "--autocast"], "--autocast: must not be given without --samples"),
    ],
)
def test_errors_of_folders(words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "LICENSE").touch()
    result = call(*words)
    assert result.exit_code == 2 and message in result.stderr
