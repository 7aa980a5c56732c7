"""keep_freed_memory: what a step frees, the next one takes without a fault of a page."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from vlae_fast.training import keep_freed_memory

def step():
    maps = [torch.ones(30 << 18) for _ in range(3)]  # 30 MiB each

def faults():
    step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

without = faults()
assert keep_freed_memory()
print(without, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc's malloc")
def test_maps_of_a_step_are_taken_again_without_faults() -> None:
    out = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True).stdout
    without, kept = map(int, out.split())
    assert kept < 100 < without, "as many pages as the maps have, then none"


def test_another_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    from vlae_fast.training import memory

    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert memory.keep_freed_memory() is False
