"""What happens to the tests after one that loses the CUDA context: a fake one, without a GPU."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest, torch

broken = []
torch.cuda.is_available = lambda: True

def synchronize():
    if broken:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

torch.cuda.synchronize = synchronize
pytestmark = pytest.mark.gpu

def test_breaks():
    broken.append(1)

@pytest.mark.parametrize("i", range(3))
def test_after_it(i):
    synchronize()
"""


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_lost.py").write_text(TESTS)
    options = ["-p", "cases.gpu_context", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(folder)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    environment = {name: value for name, value in environment.items() if not name.startswith("PYTEST")}
    command = [sys.executable, "-m", "pytest", "-q", *options, *words, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=False)


@pytest.mark.slow
def test_a_worker_is_replaced(tmp_path: Path) -> None:
    pytest.importorskip("xdist")
    done = run(tmp_path, "-n", "1")
    assert done.returncode == 1, done.stdout
    assert "node down" in done.stdout and "illegal memory access" in done.stdout
    assert not re.search(r"(FAILED|ERROR) \S+test_after_it", done.stdout)
    assert re.search(r"[34] passed", done.stdout), done.stdout


@pytest.mark.slow
def test_without_workers_the_run_ends(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 77 and "the CUDA context is lost" in done.stdout + done.stderr
    assert "test_after_it" not in done.stdout
