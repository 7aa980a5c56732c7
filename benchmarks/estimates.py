"""`python -m benchmarks.estimates`: how long targets would take on an H100, by a model of cycles, without a GPU.

Kernels that a target launches are compiled for sm_90, and a launch takes as long as the slowest of: matrix
instructions, instructions issued, bytes from the L2 cache to a processor, bytes from memory. A round of programs lasts
at least as long as one of them alone: its loop at the slowest of the first three, the rest of its code as one warp runs
it, by the stalls and scoreboards that the compiler wrote into it. Latencies inside loops are taken to be hidden. A
launch in a CUDA graph adds a fixed time. Samplers and inverses are those of the CUDA library, whose time is that of
their steps: `step_cycles`. Expect 30 to 40 % to either side. The table goes to docs/gpu.md.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from math import ceil, prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from torch import Tensor

from .cuda_calls import called
from .h100 import (
    CLOCK,
    ISSUED,
    L2,
    L2_BYTES,
    L2_SIZE,
    LAUNCH_US,
    MEMORY,
    PROCESSORS,
    PRODUCTS,
    REGISTERS,
    SHARED,
    WARPS,
)
from .kernels import Launched, compiled, recorded
from .machine_code import parts_of, warp_cycles
from .table import replaced
from .targets import TARGETS, Target

BEGIN = "<!-- benchmarks/estimates.py -->\n"
PAGE = Path(__file__).parents[1] / "docs" / "gpu.md"


class Loop(NamedTuple):
    """Passes through a kernel's hot loop, of all programs; products and loaded bytes of a pass."""

    passes: float
    products: int
    loaded: int


def loop_of(kernel: str, args: dict[str, Any], options: dict[str, Any], grid: tuple[int, ...]) -> list[Loop]:
    """What a launch multiplies, from its arguments; nothing where it multiplies no matrices."""
    a, programs = args | options, prod(grid)
    size = next(t.element_size() for t in args.values() if isinstance(t, Tensor) and t.is_floating_point())

    def loop(passes: float, m: int, n: int, k: int) -> Loop:
        return Loop(passes, m * n * k, (m + n) * k * size)

    if kernel == "masked_conv_forward_kernel":
        columns = a["BN"] * (2 if a["ACTIVATION"] == "gate" else 1)
        passes = a["T"] * a["PER_TAP"] or ceil(a["T"] * a["C_in"] / a["BK"])
        return [loop(programs * passes, a["BM"], columns, a["BK"])]
    found = []
    if kernel == "masked_conv_backward_kernel":
        weight_programs, m = a["weight_programs"], a["WEIGHT_BM"]
        if weight_programs:
            found.append(loop(weight_programs * a["pixels_per_part"] / m, a["WEIGHT_BK"], a["WEIGHT_BN"], m))
        passes = a["T"] * a["PER_TAP"] or ceil(a["T"] * a["P"] / a["BK"])
        found.append(loop((programs - weight_programs) * passes, a["BM"], a["BN"], a["BK"]))
    if "masked_linear" in kernel and a["p_walks"] is not None:
        walks = a["p_walks"]
        tiles = sum(int((ends - starts).sum()) for starts, ends in _runs(walks))
        found.append(loop(tiles * ceil(a["B"] / a["BM"]), a["BM"], a["BN"], a["BK"]))
    if kernel == "masked_linear_backward_kernel" and a["p_tiles"] is not None:
        live = int((a["p_tiles"] >= 0).sum())
        found.append(loop(live * ceil(a["B"] / a["BB"]), a["BO"], a["BI"], a["BB"]))
    return found


def _runs(walks: Tensor) -> list[tuple[Tensor, Tensor]]:
    """First and last + 1 tile of every run of each walk: `live_tiles.Mask.walks`."""
    return [(row[3 : 3 + 2 * row[2] : 2], row[4 : 4 + 2 * row[2] : 2]) for row in walks]


class Code(NamedTuple):
    warps: int  # of a program
    resident: int  # programs that fit a processor
    in_loop: float  # instructions of a pass, the mean of the hot loops
    outside: int  # instructions outside of the hot loops
    outside_cycles: int  # of one warp


def code_of(launched: Launched) -> Code:
    """A launch, compiled for sm_90."""
    binary = compiled(launched, 90)
    loops, outside = parts_of(binary.code)
    warps, shared = binary.made.metadata.num_warps, binary.made.metadata.shared + 1024
    fits = (REGISTERS // (ceil(binary.registers / 8) * 8 * 32 * warps), SHARED // shared, WARPS // warps)
    in_loop = sum(map(len, loops)) / max(len(loops), 1)
    return Code(warps, max(min(fits), 1), in_loop, len(outside), warp_cycles(outside))


def rounds_cycles(code: Code, programs: int, loops: list[Loop]) -> float:
    """Cycles of a launch's programs where nothing waits for memory: equal ones in rounds, others balanced.

    A launch with several loops has programs of as many kinds, which share what is outside of them.
    """
    outside, outside_cycles = code.outside / len(loops), code.outside_cycles / len(loops)
    passes = sum(loop.passes for loop in loops) / programs
    matrix = sum(loop.passes * loop.products for loop in loops) / programs / PRODUCTS
    loaded = sum(loop.passes * loop.loaded for loop in loops) / programs / L2_BYTES
    issued_inside = passes * code.in_loop * code.warps / ISSUED
    issued = issued_inside + outside * code.warps / ISSUED
    alone = outside_cycles + max(matrix, loaded, issued_inside)
    slowest = max(matrix, loaded, issued)

    def round_of(count: float) -> float:
        return max(alone, count * slowest)

    on_one = programs / PROCESSORS
    full, rest = divmod(ceil(on_one) if len(loops) == 1 else on_one, code.resident)
    return full * round_of(code.resident) + (round_of(rest) if rest else 0)


def microseconds(launched: Launched) -> float:
    """Estimate of a launch in a CUDA graph."""
    name = launched.kernel.fn.__name__
    loops = loop_of(name, launched.args, launched.options, launched.grid)
    tensors = {t.data_ptr(): t for t in launched.args.values() if isinstance(t, Tensor)}  # one may be given twice
    moved = sum(t.nbytes for t in tensors.values())
    seconds = moved / (L2 if moved <= L2_SIZE else MEMORY)
    if loops:
        seconds = max(seconds, rounds_cycles(code_of(launched), prod(launched.grid), loops) / CLOCK)
    return 1e6 * seconds + LAUNCH_US


def times_of(target: Target) -> list[tuple[float, str]]:
    """Microseconds and name of each launch; a sampler or an inverse is one with all that it launches."""
    call = target.make("cpu")
    with called() as calls, recorded(90) as launches:
        call()
    waits = [(one.microseconds, one.name) for one in calls]
    return waits + [(microseconds(launched), name_of(launched)) for launched in launches]


def name_of(launched: Launched) -> str:
    """As a profiler shows it."""
    name: str = launched.kernel.repr(SimpleNamespace(constants=launched.args))
    return name.rpartition(".")[2].removesuffix("_kernel")


def time_of(us: float) -> str:
    return f"{us / 1000:.2g} ms" if us >= 1000 else f"{us:.0f} us"


def table(names: Sequence[str]) -> str:
    """A row for each target: floor, what was there before, the estimate, what is asked for."""
    lines = ["| target | floor | before | estimate | asked | largest launches |", "|---|---|---|---|---|---|"]
    for name in names:
        target = TARGETS[name]
        times = times_of(target)
        estimate = time_of(sum(us for us, _ in times))
        largest = ", ".join(f"{time_of(us)} {kernel}" for us, kernel in sorted(times, reverse=True)[:4])
        cells = (name, time_of(target.floor_us), target.before, estimate, time_of(target.asked_us), largest)
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", choices=TARGETS, action="append", help="print these; default: all, to the page")
    options = parser.parse_args(argv)
    if os.environ.get("TRITON_INTERPRET") == "1":
        parser.error("TRITON_INTERPRET=1 replaces the compiler by the interpreter: unset it")
    found = table(options.target or list(TARGETS))
    if options.target is None:
        PAGE.write_text(replaced(PAGE.read_text(encoding="utf-8"), found, BEGIN), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
