"""The CUDA kernels on the host under a sanitizer: `python -m cases.cuda_host.watched thread`, or ``address,undefined``.

Each runs every call of `calls`, in several orders of the threads; exit status 1: the sanitizer found something.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

import vlae_fast as vf
from cases.cuda_host import ROOT, is_newer
from cases.decoders import gated_stacks
from cases.once import locked
from vlae_fast.masks import live_taps
from vlae_fast.plan import Plan, Stage
from vlae_fast.sampling.program import Program
from vlae_fast.sampling.schedule import derive

SANITIZERS = ("thread", "address,undefined")
FOUND = 66  # the exit status of a process in which a sanitizer found something
ORDERS = ("forward", "backward", "1", "2")
FLAGS = "-std=c++20 -O1 -g -Wno-unknown-pragmas -fno-sanitize-recover=all -DVLAE_CUDA_ON_HOST".split()
INCLUDES = ["-Icsrc", "-Itests/cases/cuda_host"]


def build(sanitizer: str) -> Path:
    """The program of watched.cpp under that sanitizer of GCC, compiled where it is out of date."""
    folder = ROOT / "build" / f"cuda_host_{sanitizer.partition(',')[0]}"
    plan = json.loads((ROOT / "csrc/build.json").read_text())
    sources = [f"csrc/{name}" for name in plan["cuda"]["sources"] if not re.search(r"op\.cpp|why_not|weights", name)]
    sources.append("tests/cases/cuda_host/watched.cpp")
    torch_include = str(Path(torch.__file__).parent / "include")
    command = ["g++", *FLAGS, f"-fsanitize={sanitizer}", *(f"-D{m}" for m in plan["define_macros"]), *INCLUDES]
    command += ["-isystem", torch_include, "-isystem", f"{torch_include}/torch/csrc/api/include"]
    with locked(folder):
        target = folder / "watched"
        if not is_newer(target):
            objects = [(source, str(folder / (source.replace("/", "_") + ".o"))) for source in sources]
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                list(pool.map(_run, [[*command, "-x", "c++", "-c", source, "-o", o] for source, o in objects]))
            _run(["g++", f"-fsanitize={sanitizer}", *(o for _, o in objects), "-o", str(target)])
    return target


def _run(command: list[str]) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)


def barriers() -> list[str]:
    """Every barrier of a block in the kernels, as ``FILE:LINE``."""
    found = []
    for path in sorted((ROOT / "csrc/cuda").rglob("*.*")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if "__syncthreads();" in line:
                found.append(f"{path.name}:{number}")
    return found


def _plan_of(stages: list[Stage], channels: int, size: tuple[int, int], order: str = "wavefront") -> Plan:
    schedule = derive(tuple(stages), size, order=order)
    return Plan(channels, schedule.slope, tuple(stages), schedule.leads)


def _norms() -> Plan:
    """A norm, a residual and a factor, on images of 4 x 5."""
    program, taps = Program(1), live_taps("A", (3, 3))
    h = program.add([(0, torch.zeros(70, 1, 3, 3), taps)], torch.zeros(70))
    n = program.norm(h, torch.ones(70), torch.zeros(70), activation="silu", residual=h)
    sources = [(0, torch.zeros(140, 1, 3, 3), taps), (n, torch.zeros(140, 70, 1, 1), ((0, 0),))]
    g = program.add(sources, torch.zeros(140), "gate", residual=h, factor=n)
    program.add([(g, torch.zeros(1, 70, 1, 1), ((0, 0),))], torch.zeros(1))
    return _plan_of(program.stages, 1, (4, 5))


def _stacks(order: str) -> Plan:
    """Several sources a stage, stages that run ahead of the draws, on images of 5 x 4."""
    stages = [s._replace(out_channels=4, activation="elu") for s in gated_stacks(3)]
    return _plan_of([*stages[:-1], stages[-1]._replace(out_channels=2, activation="none")], 2, (5, 4), order)


def _decoder(*arguments: int, **options: object) -> Plan:
    return vf.PixelCNNSampler(vf.PixelCNNDecoder(*arguments, **options), "reference").plan  # type: ignore[arg-type]


def calls() -> list[str]:
    """Lines of watched.cpp: small calls of every kernel, in every dtype; activations in shared memory or not."""
    gates = _decoder(1, 5, 64, 2, image_size=(4, 5))
    colours = _decoder(3, 4, 20, 2, image_size=(4, 4), residual=True)
    wide = _decoder(1, 4, 280, 1, image_size=(3, 4), initial_kernel=3)
    samples = [  # plan, batch, height, width, processors, KiB of shared memory
        (gates, 1, 4, 5, 132, 227),
        (gates, 7, 4, 5, 1, 227),
        (gates, 3, 4, 5, 1, 24),
        (colours, 5, 4, 4, 2, 227),
        (wide, 2, 3, 4, 1, 227),
        (_norms(), 7, 4, 5, 1, 227),
        (_stacks("wavefront"), 3, 5, 4, 1, 227),
        (_stacks("raster"), 3, 5, 4, 1, 227),
    ]
    lines = [
        " ".join(map(str, ["sample", dtype, *sizes, kilobytes << 10, *plan.words]))
        for dtype in range(3)
        for plan, *sizes, kilobytes in samples
    ]
    return ["invert 0 5 2 6 18 25", "invert 1 5 2 6 18 36 12", "invert 2 2 1 3 140", "invert 0 5 2 4", *lines]


def run(
    sanitizer: str, order: str, file: Path, without: str = "", merged: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs the calls in a file; the status is `FOUND` where the sanitizer found something.

    Args:
        sanitizer: one of `SANITIZERS`.
        order: of the threads of a block: ``forward``, ``backward`` or a seed.
        without: a barrier that is left out.
        merged: the last stage of a section of the sampler that is run as one with the next.
    """
    environment = {
        "TSAN_OPTIONS": f"exitcode={FOUND}:halt_on_error=1:report_signal_unsafe=0",
        "ASAN_OPTIONS": f"exitcode={FOUND}:detect_leaks=0:detect_stack_use_after_return=0",
        "UBSAN_OPTIONS": f"exitcode={FOUND}:print_stacktrace=1",
        "VLAE_HOST_ORDER": order,
        "VLAE_HOST_WITHOUT": without,
    }
    if merged is not None:
        environment["VLAE_HOST_MERGED"] = str(merged)
    # ThreadSanitizer's memory map has no place for addresses drawn at random from all there are.
    prefix = ["setarch", "-R"] if shutil.which("setarch") else []
    return subprocess.run(
        [*prefix, str(build(sanitizer)), str(file)],
        env=os.environ | environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def main(sanitizer: str) -> int:
    file = build(sanitizer).with_name("calls.txt")
    file.write_text("\n".join(calls()) + "\n", encoding="utf-8")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        failed = [done for done in pool.map(lambda order: run(sanitizer, order, file), ORDERS) if done.returncode != 0]
    if failed:
        print(failed[0].stdout, end="")
        return 1
    print(f"CUDA kernels on the host, -fsanitize={sanitizer}: {len(calls())} calls, {len(ORDERS)} orders of threads")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
