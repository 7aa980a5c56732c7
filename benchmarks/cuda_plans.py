"""What the CUDA library decides on the host before a launch, asked of its own sources: steps, stages, tiles.

`cuda_plans.cpp` prints it, compiled with the files of the library that plan: a change of theirs shows here.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.cpp_extension import include_paths

from vlae_fast.plan import Plan

ROOT = Path(__file__).resolve().parent.parent
SOURCES = (
    "benchmarks/cuda_plans.cpp",
    *(f"csrc/cuda/pixelcnn_sample/{name}.cpp" for name in ("bind", "packing", "sections", "tiling")),
    *(f"csrc/pixelcnn_sample/{name}.cpp" for name in ("plan", "reads")),
    "csrc/cuda/made_inverse/plan.cpp",
)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # the index is the library's number


class Stage(NamedTuple):
    """A stage of the sampler, with its rows in each step of an image."""

    section: int  # number of the section that it is in
    is_norm: bool
    is_joined: bool  # has a residual or a factor
    is_pair: bool  # two columns make a channel: gate and glu
    products: int  # of an output, dead ones and padding with them
    columns: int  # outputs before the gate
    warp: int  # that takes its first 16 columns
    entries: int  # of what is located
    rows: tuple[int, ...]  # in each step


class Sampler(NamedTuple):
    samples: int  # of a tile, which a thread block draws
    tiles: int
    in_shared: bool  # are the activations in shared memory?
    is_whole: bool  # is a whole step located at once?
    rows: int  # that a warp multiplies at once
    busy: int  # warps that have no part in locating a step: they have columns before the last draw
    stages: list[Stage]
    draws: int  # passes of all threads over the pixels that are drawn
    drawn_after: tuple[int, ...]  # of each draw of a step how many sections come before it


class Quad(NamedTuple):
    """Four rows of a flow's inverse that a warp multiplies with `count` known values, in a block of the walk."""

    block: int
    count: int


class Event(NamedTuple):
    """`count` values that become known at once: units of a layer, or a dimension of x."""

    block: int
    count: int
    is_dimension: bool


class Flow(NamedTuple):
    quads: list[Quad]
    events: list[Event]
    fours: int  # packed weights of a step, in fours


def sampler(plan: Plan, size: tuple[int, int], batch: int, dtype: torch.dtype, limits: tuple[int, int]) -> Sampler:
    """How a call is cut; limits: processors, and the bytes of shared memory that a thread block can have."""
    words = plan.words
    lines = _said("pixelcnn_sample", DTYPES.index(dtype), *size, batch, *limits, len(words), *words)
    tiles, *rows, draws = ([int(word) for word in line.split()[1:]] for line in lines)
    stages = [_stage(*row) for row in rows]
    samples, blocks, in_shared, is_whole, at_once, busy = tiles
    whole, shared = bool(is_whole), bool(in_shared)
    return Sampler(samples, blocks, shared, whole, at_once, busy, stages, draws[0], tuple(draws[1:]))


def _stage(section: int, norm: int, joined: int, pair: int, products: int, columns: int, *rest: int) -> Stage:
    warp, entries, *rows = rest
    return Stage(section, bool(norm), bool(joined), bool(pair), products, columns, warp, entries, tuple(rows))


def sections(plan: Plan, most: int) -> list[list[int]]:
    """Numbers of the stages that share a barrier, ``most`` at once, in the order in which sections run."""
    words = plan.words
    return [[int(word) for word in line.split()[1:]] for line in _said("sections", most, len(words), *words)]


def flow(degrees: Sequence[Tensor]) -> Flow:
    """The walk of a MADE: `vlae_fast.reference.arguments.Layers.degrees`."""
    lists = [layer.tolist() for layer in degrees]
    lines = _said("made_inverse", len(lists), *(number for one in lists for number in (len(one), *one)))
    found: dict[str, list[list[int]]] = {"quad": [], "event": [], "fours": []}
    for line in lines:
        kind, *numbers = line.split()
        found[kind].append([int(number) for number in numbers])
    events = [Event(block, count, bool(one)) for block, count, one in found["event"]]
    return Flow([Quad(*quad) for quad in found["quad"]], events, found["fours"][0][0])


def _said(*words: object) -> Iterable[str]:
    done = subprocess.run([_program()], input=" ".join(map(str, words)), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"cuda_plans: {done.stderr.strip()}")
    return done.stdout.splitlines()


@cache
def _program() -> str:
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise RuntimeError("cuda_plans: a C++ compiler must be installed: no g++ and no clang++ was found")
    folder = tempfile.TemporaryDirectory()
    _FOLDERS.append(folder)
    program = str(Path(folder.name, "cuda_plans"))
    macros = ["-DTORCH_TARGET_VERSION=0x020a000000000000"]
    command = [compiler, "-std=c++20", "-O0", "-Icsrc", *(f"-I{path}" for path in include_paths()), *macros, *SOURCES]
    subprocess.run([*command, "-o", program], cwd=ROOT, check=True)
    return program


_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []  # removed when Python ends
