"""The command as people type it: torchrun, and a worker that is killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vlae_fast import checkpoint

pytest.importorskip("typer")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc"),
]
WORDS = "--epochs 8 --hidden-dim 8 --n-layers 1 --latent-dim 2 --flow-hidden 8 --device cpu --out".split()


def torchrun(out: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *options]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    train = ["-m", "vlae_fast", "train", *WORDS, str(out)]
    return subprocess.Popen([*command, *train], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def workers(agent: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            if parent == agent and b"vlae_fast" in (path.parent / "cmdline").read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return sorted(found)


def saved(out: Path) -> int:
    """Which file the last save is: none, or a number of its own."""
    try:
        return (out / "checkpoint" / "config.json").stat().st_ino
    except OSError:
        return 0


def test_a_killed_worker_is_started_anew_and_the_bits_are_those_of_a_run_in_peace(tmp_path: Path) -> None:
    peace, war = tmp_path / "peace", tmp_path / "war"
    agent = torchrun(peace)
    output = agent.communicate(timeout=400)[0]
    assert agent.returncode == 0 and "2 processes share each batch of 64" in output, output
    assert output.count("validation loss") == 1
    agent, chance = torchrun(war, "--max-restarts", "3"), random.Random(5)
    for _ in range(2):
        before, end = saved(war), time.monotonic() + 200
        while saved(war) == before and time.monotonic() < end and agent.poll() is None:
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 0.3))
        os.kill(chance.choice(workers(agent.pid)), signal.SIGKILL)
    output = agent.communicate(timeout=400)[0]
    assert agent.returncode == 0, output
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (peace / "checkpoint" / name).read_bytes() == (war / "checkpoint" / name).read_bytes()
    assert checkpoint.load(war).epoch == 8
