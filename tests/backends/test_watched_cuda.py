"""Sanitizers find nothing in the CUDA kernels, compiled for the host, and every barrier that is left out."""

import shutil
import sys
from pathlib import Path

import pytest
from cases.cuda_host import ROOT, watched

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.platform != "linux" or shutil.which("g++") is None or not (ROOT / "csrc").is_dir(),
        reason="the sanitizers are GCC's, on Linux, and need the sources",
    ),
]


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("watched") / "calls.txt"
    file.write_text("\n".join(watched.calls()) + "\n", encoding="utf-8")
    return file


@pytest.mark.parametrize("sanitizer", watched.SANITIZERS)
def test_nothing_is_found(sanitizer: str, calls: Path) -> None:
    """In one order of the threads: `make tsan` and `make sanitize` go through all."""
    done = watched.run(sanitizer, watched.ORDERS[0], calls)
    assert done.returncode == 0, done.stdout
    made = [line for line in done.stdout.splitlines() if not line.startswith("==")]  # ASan warns of fibers
    assert len(made) == len(watched.calls())


@pytest.mark.parametrize("barrier", watched.barriers())
def test_a_barrier_that_is_left_out_is_found(barrier: str, calls: Path) -> None:
    """As a race, or as a read at a place that nobody has written: barriers alone order the accesses of warps."""
    done = watched.run("thread", watched.ORDERS[0], calls, barrier)
    assert done.returncode == watched.FOUND, done.stdout
    assert "ThreadSanitizer" in done.stdout


def test_a_section_that_does_not_wait_for_the_one_before_is_found(tmp_path: Path) -> None:
    """Of two stacks: between the section that ends with stage 1 and the next there is no barrier."""
    file = tmp_path / "calls.txt"
    stacks = [line for line in watched.calls() if line.startswith("sample 0")][-2]
    file.write_text(stacks + "\n", encoding="utf-8")
    assert watched.run("thread", watched.ORDERS[0], file).returncode == 0
    done = watched.run("thread", watched.ORDERS[0], file, merged=1)
    assert done.returncode == watched.FOUND and "ThreadSanitizer" in done.stdout, done.stdout


def test_barriers_are_those_of_the_sources() -> None:
    """Each `FILE:LINE` is another: the program that leaves one out goes by it."""
    found = watched.barriers()
    assert len(found) == len(set(found)) >= 5
