"""A command takes the threads that its process may use."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("typer")
from vlae_fast.commands import threads


def groups(folder: Path, own: str, files: dict[str, str]) -> float | None:
    (folder / "own").write_text(own)
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return threads.allowed_cores(folder, folder / "own")


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {}, None),
        ("0::/a/b\n", {"a/b/cpu.max": "400000 100000\n", "a/cpu.max": "200000 100000\n"}, 2.0),
        ("0::/of/the/host\n", {"cpu.max": "300000 100000\n"}, 3.0),
        ("0::/a\n", {"a/cpu.max": "damaged"}, None),
        (
            "4:cpu,cpuacct:/a\n3:memory:/a\n",
            {"cpu/a/cpu.cfs_quota_us": "50000", "cpu/a/cpu.cfs_period_us": "100000"},
            0.5,
        ),
        ("4:cpu,cpuacct:/a\n", {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"}, None),
    ],
)
def test_limits_of_control_groups(own: str, files: dict[str, str], cores: float | None, tmp_path: Path) -> None:
    assert groups(tmp_path, own, files) == cores


def test_no_control_groups(tmp_path: Path) -> None:
    assert threads.allowed_cores(tmp_path, tmp_path / "nowhere") is None


def test_threads_are_limited_and_a_wish_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        for wish, cores, expected in (("3", 1.0, 3), (None, None, 3), (None, 8.0, 3), (None, 1.5, 2), (None, 0.2, 1)):
            monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
            if wish:
                monkeypatch.setenv("OMP_NUM_THREADS", wish)
            monkeypatch.setattr(threads, "allowed_cores", lambda cores=cores: cores)
            threads.keep_to_limits()
            assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)
