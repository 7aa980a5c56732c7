"""A disk that is full or broken: whichever step of writing a picture fails, the picture that was there stays."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from cases.faults import ERRORS, count_changes, fail

from vlae_fast.visualization import grids

image = pytest.importorskip("matplotlib.image")
WRITES = ((Path, "mkdir"), (image, "imsave"), (os, "replace"))


@pytest.mark.parametrize("error", ERRORS)
def test_a_fault_in_any_step_of_save_grid_leaves_the_old_picture_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    path = tmp_path / "grid.png"
    grids.save_grid(torch.zeros(3, 1, 4, 4), path)
    old = path.read_bytes()

    def work() -> None:
        grids.save_grid(torch.ones(3, 1, 4, 4), path)

    assert count_changes(monkeypatch, WRITES, work) == ["mkdir", "imsave", "replace"]
    path.write_bytes(old)
    for number in range(3):
        with pytest.raises(OSError, match=rf"path: .*grid\.png was not written: .*{os.strerror(ERRORS[error])}"):
            fail(monkeypatch, WRITES, work, number, ERRORS[error])
        assert path.read_bytes() == old and [p.name for p in tmp_path.iterdir()] == ["grid.png"]
    work()
    assert path.read_bytes() != old
