"""The CUDA library's sources compiled for the host: its kernels run without a GPU, a thread a fiber."""

import json
import os
import shlex
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from cases.once import locked

ROOT = Path(__file__).resolve().parents[3]
BUILD = ROOT / "build" / "cuda_host"
FLAGS = ["-std=c++20", "-O2", "-fPIC", "-fvisibility=hidden", "-Werror", "-Wswitch-enum", "-Wno-unknown-pragmas"]


def _compiler() -> list[str] | None:
    """GCC, which alone compiles a .cu file as C++ whatever is in it."""
    words = shlex.split(os.environ.get("CXX", "g++"))
    return words if shutil.which(words[0]) and "clang" not in words[0] else None


def is_newer(target: Path) -> bool:
    """True where it is newer than everything it is made of, which bytecode is not."""
    made_of = [p for folder in ("csrc", "tests/cases/cuda_host") for p in (ROOT / folder).rglob("*.*")]
    return target.is_file() and target.stat().st_mtime > max(p.stat().st_mtime for p in made_of if p.suffix != ".pyc")


def _run(command: list[str]) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)


def build() -> Path | None:
    """The library, compiled where it is out of date; None without a compiler."""
    compiler, target = _compiler(), BUILD / "_native_cuda_host.so"
    if compiler is None:
        return None
    with locked(BUILD):
        if not is_newer(target):
            _compile(compiler, target)
    return target


def _compile(compiler: list[str], target: Path) -> None:
    torch_folder = Path(torch.__file__).parent
    plan = json.loads((ROOT / "csrc/build.json").read_text())
    macros = [f"-D{macro}" for macro in (*plan["define_macros"], "VLAE_CUDA_ON_HOST")]
    flags = [*FLAGS, *plan["warnings"], *macros, "-Itests/cases/cuda_host"]
    for folder in ("include", "include/torch/csrc/api/include"):
        flags += ["-isystem", str(torch_folder / folder)]
    units = [(source, BUILD / (source.replace("/", "_") + ".o")) for source in plan["cuda"]["sources"]]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        commands = [[*compiler, *flags, "-x", "c++", "-c", f"csrc/{source}", "-o", str(o)] for source, o in units]
        list(pool.map(_run, commands))
    fresh = target.with_suffix(".new")
    libraries = [f"-L{torch_folder / 'lib'}", "-ltorch_cpu", "-Wl,-z,defs"]
    _run([*compiler, "-shared", *(str(o) for _, o in units), *libraries, "-o", str(fresh)])
    fresh.replace(target)
