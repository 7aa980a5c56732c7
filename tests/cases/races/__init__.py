"""The CPU library under ThreadSanitizer: `python -m cases.races FOLDER` builds it there and fails where threads race.

FOLDER keeps the build; the library in use stays as it is. Exit status 1: a race, or a call that failed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
THREADS = "parallel_for.cpp"
RACE = 66  # the exit status of a process whose threads raced


def build(folder: Path, planted: tuple[str, str, str] | None = None) -> Path:
    """Builds the library of this checkout in `folder`, of what is unchanged there nothing; returns its file.

    planted: a file of csrc, and a text in it that another takes the place of.
    """
    csrc = folder / "csrc"
    shutil.rmtree(csrc, ignore_errors=True)
    shutil.copytree(ROOT / "csrc", csrc)  # with the times of the files: ninja goes by them
    shutil.copy2(HERE / THREADS, csrc / THREADS)
    shutil.copy2(ROOT / "setup.py", folder / "setup.py")
    plan = json.loads((csrc / "build.json").read_text(encoding="utf-8"))
    plan["cxx_flags"] = [flag.replace("-O3", "-O1") for flag in plan["cxx_flags"]]
    plan["common"].append(THREADS)
    (csrc / "build.json").write_text(json.dumps(plan), encoding="utf-8")
    if planted is not None:
        name, right, wrong = planted
        text = (csrc / name).read_text(encoding="utf-8")
        assert text.count(right) == 1, f"{name} must hold {right!r} once, got {text.count(right)}"
        (csrc / name).write_text(text.replace(right, wrong), encoding="utf-8")
    environment = {"CXX": "g++ -fsanitize=thread -g", "VLAE_FAST_CUDA": "0", "VLAE_FAST_REQUIRE_CPU": "1"}
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    subprocess.run(command, cwd=folder, check=True, env=os.environ | environment | {"VLAE_FAST_WERROR": "0"})
    return folder / "vlae_fast" / "_native_cpu.so"


def run(library: Path) -> subprocess.CompletedProcess[str]:
    """Runs every op of the library on four threads, in a process of its own; what it prints is in `stdout`."""
    found = subprocess.run(["g++", "-print-file-name=libtsan.so"], check=True, text=True, capture_output=True)
    environment = {
        "LD_PRELOAD": found.stdout.strip(),  # Python is not instrumented: the runtime must be there before it
        "OMP_NUM_THREADS": "1",  # torch's own threads are not instrumented either, and would only confuse it
        "TSAN_OPTIONS": f"exitcode={RACE}:halt_on_error=0:report_signal_unsafe=0",
    }
    command = [sys.executable, str(HERE / "calls.py"), str(library)]
    # Its memory map has no place for addresses drawn at random from all there are.
    prefix = ["setarch", "-R"] if shutil.which("setarch") else []
    return subprocess.run(
        [*prefix, *command], env=os.environ | environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
