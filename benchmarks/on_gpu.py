"""`benchmarks/on_gpu.sh DIR STEP...`: what needs a GPU, for one that is there for minutes.

A step ends within 8 minutes, prints the end of its output and leaves one archive, DIR/STEP.tar.gz. Nothing is
installed: the folder of kernels is linked into the package, and the libraries are those that lie there. Rows for CUDA
and Triton must be able, and a CUDA device there, before a step starts. --dry-run starts nothing: it says what would.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import util
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {
    "PYTHONUNBUFFERED": "1",
    "PYTHONPATH": str(ROOT),
    "VLAE_FAST_REQUIRE_CUDA": "1",
    "VLAE_FAST_REQUIRE_TRITON": "1",
}
STEP_SECONDS = 480  # a command may last 10 minutes; a machine takes one to start
ALL_SECONDS = 1740  # of the 30 minutes of a stay
ARCHIVES = 8  # files that come back
TAIL = 15  # lines of a command's output that are printed
TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
RUNS = "out/models"  # of the checkout: a later call goes on with what is there
KEPT = {"tune": "kernels/configs.json", "models": RUNS}  # what a step changes in the checkout
NO_CACHE = (("PYTORCH_NO_CUDA_MEMORY_CACHING", "1"),)  # else a tool sees torch's blocks, not the tensors in them


class Command(NamedTuple):
    """``program`` and Python with ``words``, in which ``{files}`` is the step's folder; killed after ``seconds``."""

    name: str
    words: tuple[str, ...]
    seconds: int
    program: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()


def _pytest(*words: str) -> tuple[str, ...]:
    parallel = ("-n", "8") if util.find_spec("xdist") else ()
    return ("-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "-rf", "--tb=short", *parallel, *words)


def _sanitizer(tool: str) -> Command:
    program = ("compute-sanitizer", "--tool", tool, "--error-exitcode", "9")
    return Command(tool, ("-m", "benchmarks.small_calls"), 75, program, NO_CACHE)


STEPS: dict[str, tuple[Command, ...]] = {  # in the order of what they are worth; models in a stay of its own
    "small": (Command("small_calls", ("-m", "benchmarks.small_calls"), 100),),
    "test": (Command("pytest", _pytest("tests", "--deselect", "tests/test_gpu.py::test_sanitizer"), 470),),
    "sanitizer": tuple(_sanitizer(tool) for tool in TOOLS),
    "timing": (Command("targets", ("-m", "benchmarks.targets", "--out", "{files}/targets.csv"), 180),),
    "tune": (Command("tune", ("-m", "benchmarks.tune", "--minutes", "5"), 330),),
    "suite": (Command("suite", ("-m", "benchmarks.run", "--suite", "gpu", "--minutes", "5", "--out", "{files}"), 330),),
    "models": (Command("recipes", ("-m", "benchmarks.recipes", "--out", RUNS, "--device", "cuda", "--autocast"), 475),),
}


def words_of(command: Command, files: Path | str) -> list[str]:
    return [*command.program, sys.executable, *(word.replace("{files}", str(files)) for word in command.words)]


@contextmanager
def linked() -> Iterator[None]:
    """``vlae_fast.kernels`` is this checkout's while it lasts: by a link where no install has put it there."""
    package = ROOT / "vlae_fast" / "kernels"
    probe = "import os, sys, vlae_fast.kernels as k; sys.exit(not os.path.samefile(k.__path__[0], 'kernels'))"
    missing = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, check=False).returncode
    if missing:
        package.symlink_to(Path("..", "kernels"), target_is_directory=True)
    try:
        yield
    finally:
        if missing:
            package.unlink()


def unable() -> list[str]:
    """Reasons why nothing can start here."""
    import torch

    if not torch.cuda.is_available():
        return ["torch sees no CUDA device"]
    from vlae_fast import backends

    reasons = {row.name: row.absent() for row in backends.table.TABLE if row.name in ("cuda", "triton")}
    return [f"{name}: {reason}" for name, reason in reasons.items() if reason is not None]


def start(command: Command, files: Path) -> int:
    """Runs a command with its output in ``files``; its exit status, 124 where its time was up."""
    log, begun = files / f"{command.name}.log", time.monotonic()
    with log.open("w") as out:
        process = subprocess.Popen(
            words_of(command, files),
            cwd=ROOT,
            env=os.environ | ENVIRONMENT | dict(command.environment),
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # what it starts ends with it
        )
        try:
            status = process.wait(command.seconds)
        except subprocess.TimeoutExpired:
            status = 124
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    print(*log.read_text(errors="replace").splitlines()[-TAIL:], sep="\n")
    print(f"== {command.name}: exit {status}, {time.monotonic() - begun:.0f} s of {command.seconds}", flush=True)
    return status


def run_step(name: str, out: Path) -> int:
    """Runs a step; packs what it leaves into ``out/name.tar.gz``; the largest exit status of its commands."""
    with tempfile.TemporaryDirectory() as folder:
        statuses = [start(command, Path(folder)) for command in STEPS[name]]
        with tarfile.open(out / f"{name}.tar.gz", "w:gz") as archive:
            archive.add(folder, name)
            if (changed := ROOT / KEPT.get(name, "none")).exists():
                archive.add(changed, f"{name}/{changed.name}")
    return max(statuses)


def tests_of(command: Command) -> int:
    """How many tests a command of pytest would start.

    Raises:
        RuntimeError: they cannot be collected; with pytest's output.
    """
    serial = ("-n", "0") if "-n" in command.words else ()
    words = [sys.executable, *command.words, "--collect-only", "-q", *serial]  # -q -q: a count for each file
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ | ENVIRONMENT)
    counts = re.findall(r"^\S+\.py: (\d+)$", done.stdout, re.MULTILINE)
    if done.returncode or not counts:
        raise RuntimeError(
            f"pytest collects no tests (exit status {done.returncode}): {done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    return sum(map(int, counts))


def rehearse(steps: Sequence[str], out: Path) -> int:
    """Says what each step would start, how long it may last and what it would leave; nonzero where that is too much."""
    for reason in unable():
        print(f"no step would start here: {reason}")
    wrong = []
    for name in steps:
        seconds = sum(command.seconds for command in STEPS[name])
        print(f"{name}: at most {seconds} s, leaves {out / name}.tar.gz")
        for command in STEPS[name]:
            counted = f": {tests_of(command)} tests" if command.name == "pytest" else ""
            print(f"  {' '.join(words_of(command, '{files}'))}{counted}")
        if seconds > STEP_SECONDS:
            wrong.append(f"{name} may last {seconds} s, at most {STEP_SECONDS} are allowed")
    if len(steps) > ARCHIVES:
        wrong.append(f"{len(steps)} archives, at most {ARCHIVES} are allowed")
    total = sum(command.seconds for name in steps for command in STEPS[name])
    if total > ALL_SECONDS:
        wrong.append(f"all steps may last {total} s, at most {ALL_SECONDS} are allowed")
    print(*wrong, f"{len(steps)} steps, {len(steps)} archives, at most {total / 60:.0f} minutes", sep="\n")
    return 1 if wrong else 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks/on_gpu.sh", description=__doc__)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("out", type=Path, metavar="DIR")
    parser.add_argument("steps", nargs="+", choices=STEPS, metavar="STEP", help=", ".join(STEPS))
    options = parser.parse_args(argv)
    steps, out = list(dict.fromkeys(options.steps)), options.out.resolve()
    with linked():
        if options.dry_run:
            return rehearse(steps, out)
        if reasons := unable():
            print(*reasons, sep="\n", file=sys.stderr)
            return 2
        out.mkdir(parents=True, exist_ok=True)
        statuses = [run_step(name, out) for name in steps]
        return 1 if any(statuses) else 0


if __name__ == "__main__":
    sys.exit(main())
