"""Files that the commands write: where they cannot, one line says why, and the old file is still there."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("typer")
pytest.importorskip("matplotlib")
from cases.commands import PICTURES, call
from cases.pictures import decoded

from vlae_fast import checkpoint

pytestmark = pytest.mark.usefixtures("small_data")

TRAIN = ["train", "--epochs", 1, "--hidden-dim", 4, "--n-layers", 1, "--latent-dim", 2, "--flow-hidden", 8]


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow beyond 1000 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def check_error(result: Any, message: str) -> None:
    last = result.stderr.splitlines()[-1]
    assert result.exit_code == 2 and "Traceback" not in result.stderr
    assert "error: " in last and message in last, result.stderr


@pytest.mark.parametrize("command", [*PICTURES, "sample"])
def test_a_full_disk(command: str, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "old.png"
    out.write_bytes(b"old")
    options = PICTURES[command][0] if command in PICTURES else ["-n", 16]
    with full_disk():
        result = call(command, folder, *options, "--out", out)
    check_error(result, f"--out: {out} was not written: [Errno 27] File too large")
    assert out.read_bytes() == b"old" and list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("file/x.png", "x.png' cannot be written: "),
        ("folder.png", "--out: must be a file or not be there, for it is replaced, got "),
        ("pipe.png", "--out: must be a file or not be there, for it is replaced, got "),
        ("x.doc", "--out: must end in one of "),
    ],
)
def test_pictures_that_cannot_be(out: str, message: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    before = sorted(tmp_path.iterdir())
    check_error(call("curves", folder, "--out", tmp_path / out), message)
    assert sorted(tmp_path.iterdir()) == before and (tmp_path / "file").read_text() == "old"


def test_a_link_goes_on_to_lead_to_the_picture(folder: Path, tmp_path: Path) -> None:
    link, target = tmp_path / "link.png", tmp_path / "target.png"
    link.symlink_to(target)
    assert call("curves", folder, "--out", link).exit_code == 0
    assert link.is_symlink() and decoded(target).std() > 0.01


def test_training_on_a_full_disk(tmp_path: Path) -> None:
    assert call(*TRAIN, "--out", tmp_path).exit_code == 0
    with full_disk():
        result = call(*TRAIN, "--out", tmp_path, "--overwrite")
    check_error(result, "checkpoint was not saved, and is what it was: ")
    assert checkpoint.load(tmp_path / "checkpoint").epoch == 1 and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("command", [TRAIN, ["collapse", "--epochs", 1, "--windows", 3]], ids=["train", "collapse"])
def test_a_run_that_could_not_save_does_not_begin(command: list[object], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    result = call(*command, "--out", tmp_path / "file")
    check_error(result, "checkpoint cannot be saved: ")
    assert "epoch 1" not in result.stderr and (tmp_path / "file").read_text() == "old"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(folder: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    check_error(call("curves", folder, "--out", tmp_path / "x.png"), "x.png' cannot be written: ")
    check_error(call(*TRAIN, "--out", tmp_path), "must be a folder that can be written to")
