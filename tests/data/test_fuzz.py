"""The fuzzer of readers: what it takes for a failure, and a few inputs of it for each reader."""

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path

import pytest
from cases.file_readers import READERS, FailedError, Reader, try_input
from cases.mutated import mutated_bytes

from vlae_fast.data import files

pytest.importorskip("safetensors")


def test_an_input_that_fails_is_printed_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def read(folder: Path) -> None:
        if (folder / "x").read_bytes() == b"bad":
            raise KeyError("x")
        raise ValueError

    reader = Reader("mine", "x", lambda: [b"good"], read)
    reader.prepare(tmp_path / "data")
    try_input(reader, b"good", tmp_path / "keep")
    assert not (tmp_path / "keep").exists()
    with pytest.raises(FailedError):
        try_input(reader, b"bad", tmp_path / "keep")
    assert "fuzz: mine: KeyError for 626164 (3 bytes" in capsys.readouterr().out
    assert [path.read_bytes() for path in (tmp_path / "keep").iterdir()] == [b"bad"]


@pytest.mark.parametrize("times", [6, pytest.param(50, marks=pytest.mark.slow)])
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_any_file_is_read_or_refused(reader: Reader, times: int, tmp_path: Path) -> None:
    rng = random.Random(0)
    reader.prepare(tmp_path / "data")
    assert reader.valid
    for valid in reader.valid:
        reader.read(valid)
        for _ in range(times):
            try_input(reader, mutated_bytes(valid, rng), tmp_path / "keep")


def test_a_small_file_takes_little_memory(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    tracemalloc.start()
    try:
        assert files.read_bytes(tmp_path / "x") == b"abc"
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
