"""keep_freed_memory: what a step frees, the next one takes without a fault of a page, up to a bound."""

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
print(without, min(faults() for _ in range(5)))  # the first maps may lie at new places
"""


# Blocks between which a small one stays are never at the heap's end, which is all that glibc gives back by itself.
SURPLUS = """
import torch
from vlae_fast.training import keep_freed_memory, memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

memory._SECONDS = 0.05
assert keep_freed_memory(most=256 << 20)

def freed(count):
    # of so many blocks of 16 MiB, behind each of which one of 32 bytes stays
    pairs = [(torch.ones(16 << 18), torch.ones(8)) for _ in range(count)]
    behind, before = [small for _, small in pairs], resident()
    del pairs
    memory.time.sleep(0.5)
    return before - resident()

before, beyond, after = freed(8), freed(32), freed(8)
child = memory.os.fork()
if not child:
    memory.os._exit(0 if keep_freed_memory() else 1)
assert memory.os.waitpid(child, 0)[1] == 0
print(before, beyond, after)
"""
on_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc's malloc")


@on_glibc
def test_more_than_the_bound_goes_back_to_the_system() -> None:
    out = subprocess.run([sys.executable, "-c", SURPLUS], capture_output=True, text=True, check=True).stdout
    within, beyond, again = map(int, out.split())
    assert max(within, again) < 16 << 20, "what malloc calls free counts where it is in memory"
    assert beyond > 256 << 20


@on_glibc
def test_maps_of_a_step_are_taken_again_without_faults() -> None:
    out = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True).stdout
    without, kept = map(int, out.split())
    assert kept < 100 < without, "as many pages as the maps have, then none"


def test_another_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    from vlae_fast.training import memory

    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert memory.keep_freed_memory() is False
