"""A disk that is full or broken: whichever write, flush or rename of a save fails, the old checkpoint stays."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cases.checkpoints import save
from cases.deadline import slow_where
from cases.faults import ERRORS, count_changes, fail

from vlae_fast import checkpoint

safetensors = pytest.importorskip("safetensors.torch")
WRITES = ((Path, "mkdir"), (safetensors, "save_file"), (Path, "write_text"), (os, "fsync"), (os, "replace"))
REMOVALS = ((os, "unlink"), (os, "rmdir"))


@slow_where(lambda before, error: (before, error) != ("whole", "no space"))  # test_checkpoint.py interrupts the others
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("before", ["whole", "only previous"])
def test_a_fault_in_any_write_of_a_save_leaves_the_old_checkpoint_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str, error: str
) -> None:
    def start(name: str) -> Path:
        save(tmp_path / name / "c", epoch=1)
        if before == "only previous":  # an earlier save was stopped between its two renames
            (tmp_path / name / "c").rename(tmp_path / name / "c.previous")
        return tmp_path / name / "c"

    whole = start("whole")
    changes = count_changes(monkeypatch, WRITES, lambda: save(whole, epoch=2))
    assert checkpoint.load(whole).epoch == 2 and {"mkdir", "save_file", "write_text", "fsync", "replace"} == {*changes}
    assert changes.count("replace") == (2 if before == "whole" else 1)
    for number, name in enumerate(changes):
        folder = start(str(number))
        message = rf"was not saved, and is what it was: .*{os.strerror(ERRORS[error])}|cannot be saved: "
        with pytest.raises(OSError, match=message):
            fail(monkeypatch, WRITES, lambda at=folder: save(at, epoch=2), number, ERRORS[error])
        assert [p.name for p in folder.parent.iterdir()] == ["c" if before == "whole" else "c.previous"], name
        assert checkpoint.load(folder).epoch == 1, name
        save(folder, epoch=3)
        assert checkpoint.load(folder).epoch == 3 and [p.name for p in folder.parent.iterdir()] == ["c"], name


@pytest.mark.parametrize("error", ERRORS)
def test_a_fault_in_any_removal_leaves_the_new_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    folder = tmp_path / "c"
    save(folder, epoch=1)
    changes = count_changes(monkeypatch, REMOVALS, lambda: save(folder, epoch=2))
    assert "unlink" in changes and "rmdir" in changes
    for number in range(len(changes)):
        fail(monkeypatch, REMOVALS, lambda: save(folder, epoch=2), number, ERRORS[error])
        assert checkpoint.load(folder).epoch == 2
        save(folder, epoch=1)
        assert checkpoint.load(folder).epoch == 1 and [p.name for p in tmp_path.iterdir()] == ["c"]
