"""`python -m benchmarks.cuda_kernels`: compiles every CUDA kernel for every architecture, without a GPU.

Writes registers, stack and static shared memory of each to ``results/``, and how many of its instructions divide
integers, convert, or load constants, in its hot loops too; and the cycles of the sampler's events by `cycle_model`.
Fails where a kernel spills or has a stack. ``--check`` compares with what is there instead: by the same compiler, more
registers, more cycles than `SLACK` allows, and more divisions, conversions or loads of constants in hot loops are
findings too.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from .cuda_events import EVENTS
from .cycle_model import blocks_of, cycles, functions
from .machine_code import hot_loops

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).parent / "results" / "cuda_kernels.csv"
CYCLES = RESULTS.with_name("cuda_cycles.csv")
COLUMNS = "source kernel arch registers stack_bytes spill_bytes shared_bytes compiler".split()
# Instructions that begin with one of these. Each division of integers converts its divisor with this rounding, once.
COUNTED = {
    "instructions": ("",),
    "integer_divisions": ("I2F.U32.RP", "I2F.RP", "I2F.U64.RP"),
    "conversions": ("I2F", "F2I"),
    "constant_loads": ("LDC", "ULDC"),
    "local_accesses": ("LDL", "STL"),
    "matrix_products": ("HMMA",),
}
EVENT_COLUMNS = "kernel arch event cycles compiler".split()
MODELLED = "sm_90a"  # the one architecture of the model
HOT = ("hot_divisions", "hot_conversions", "hot_constant_loads")
SLACK = 1.03  # of cycles: a compiler that orders instructions otherwise costs less

KERNEL = re.compile(
    r"Compiling entry function '(?P<kernel>\w+)' for '(?P<arch>\w+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)


def nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME")
    return shutil.which(f"{home}/bin/nvcc" if home else "nvcc") or (
        None if home else shutil.which("/usr/local/cuda/bin/nvcc")
    )


def disassembler(compiler: str) -> str | None:
    """nvdisasm, of the compiler's toolkit or of triton."""
    triton = importlib.util.find_spec("triton")
    places = [Path(compiler).with_name("nvdisasm")]
    if triton is not None and triton.origin is not None:
        places.append(Path(triton.origin).with_name("backends") / "nvidia" / "bin" / "nvdisasm")
    return next((str(place) for place in places if os.access(place, os.X_OK)), shutil.which("nvdisasm"))


def counts(code: str) -> dict[str, str]:
    """Of a kernel's code the numbers of instructions that `COUNTED` names, and those of its hot loops."""
    opcodes = [x.opcode for block in blocks_of(code) for x in block.instructions]
    found = {column: sum(opcode.startswith(starts) for opcode in opcodes) for column, starts in COUNTED.items()}
    loops = hot_loops(code)
    found |= dict(zip(HOT, (loops.divisions, loops.conversions, loops.constant_loads), strict=True))
    return {column: str(number) for column, number in found.items()}


def events_of(kernel: str, arch: str, code: str) -> Iterator[dict[str, str]]:
    """Cycles of the events of a kernel; 0 where no path through its code is one of that work."""
    blocks = blocks_of(code)
    for event, work in EVENTS.get(kernel, {}).items():
        yield {"kernel": kernel, "arch": arch, "event": event, "cycles": str(cycles(blocks, work) or 0)}


def release(compiler: str) -> str:
    said = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"V(\d+\.\d+\.\d+)", said)
    assert found, f"no version in {said!r}"
    return f"nvcc {found[1]}"


def demangled(names: list[str]) -> list[str]:
    """`sample<true>` for the symbol of it: without namespaces and arguments."""
    said = subprocess.run(["c++filt", *names], capture_output=True, text=True, check=True).stdout
    plain = (re.sub(r"\(anonymous namespace\)::|\w+::", "", line) for line in said.splitlines())
    return [re.sub(r"^void |\(.*$|\(bool\)", "", re.sub(r"\((bool|int)\)", "", line)) for line in plain]


class Report(NamedTuple):
    """Rows of both tables."""

    kernels: list[dict[str, str]]
    events: list[dict[str, str]]


def rows_of(compiler: str, source: str, flags: list[str]) -> Report:
    """A row per kernel of a source and per event, for the one architecture that the flags name."""
    with tempfile.TemporaryDirectory() as folder:
        target = str(Path(folder, "kernel.cubin"))
        command = [compiler, *flags, "-Icsrc", "--resource-usage", "-cubin", f"csrc/{source}", "-o", target]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(done.stderr)
        tool = disassembler(compiler)
        listing = [tool, "-c", "-hex", target] if tool else ["true"]
        codes = functions(subprocess.run(listing, capture_output=True, text=True, check=True).stdout)
    report = Report([], [])
    found = list(KERNEL.finditer(done.stdout + done.stderr))
    for match, kernel in zip(found, demangled([m["kernel"] for m in found]), strict=True):
        shared = re.search(r"(\d+) bytes smem", match["rest"])
        spills = int(match["stores"]) + int(match["loads"])
        values = (source, kernel, match["arch"], match["registers"], match["stack"], spills, shared[1] if shared else 0)
        row = dict(zip(COLUMNS, (*map(str, values), release(compiler)), strict=True))
        if code := codes.get(match["kernel"]):
            row |= counts(code)
            if match["arch"] == MODELLED:
                events = events_of(kernel, match["arch"], code)
                report.events.extend(event | {"compiler": row["compiler"]} for event in events)
        report.kernels.append(row)
    return report


def report(compiler: str) -> Report:
    plan = json.loads((ROOT / "csrc/build.json").read_text())["cuda"]
    sources = [source for source in plan["sources"] if source.endswith(".cu")]
    cubins = [flag for name, flag in plan["architectures"].items() if not name.startswith("ptx")]
    jobs = [(source, [*plan["nvcc_flags"], flag]) for source in sources for flag in cubins]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(lambda job: rows_of(compiler, *job), jobs))
    kernels = (row for part in found for row in part.kernels)
    return Report(sorted(kernels, key=key_of), [row for part in found for row in part.events])


def key_of(row: dict[str, str]) -> tuple[str, ...]:
    return tuple(row[name] for name in COLUMNS[:3])


def offences(rows: list[dict[str, str]], committed: list[dict[str, str]] | None = None) -> list[str]:
    """Faults of the compiled kernels, also against the committed table where one is given."""
    wrong = []
    for row in rows:
        name = f"{row['kernel']} {row['arch']}"
        if int(row["stack_bytes"]) or int(row["spill_bytes"]):
            wrong.append(f"{name}: {row['stack_bytes']} bytes of stack, {row['spill_bytes']} bytes of spills")
    if committed is None:
        return wrong
    before = {key_of(row): row for row in committed}
    if set(before) != set(map(key_of, rows)):
        wrong.append(f"{RESULTS.name} lists other kernels: run python -m benchmarks.cuda_kernels")
    for row in rows:
        old = before.get(key_of(row), row)
        for column in ("registers", *HOT):
            more = column in row and column in old and int(row[column]) > int(old[column])
            if more and old["compiler"] == row["compiler"]:
                name, what = f"{row['kernel']} {row['arch']}", column.replace("_", " ")
                wrong.append(f"{name}: {row[column]} {what}, {old[column]} in the table")
    return wrong


def slower(events: list[dict[str, str]], committed: list[dict[str, str]]) -> list[str]:
    """Events that take more cycles than the committed table says, and those that are no longer found."""
    before = {(row["kernel"], row["arch"], row["event"]): row for row in committed}
    wrong = []
    for row in events:
        name = f"{row['kernel']} {row['arch']}, {row['event']}"
        old = before.get((row["kernel"], row["arch"], row["event"]))
        if row["cycles"] == "0":
            wrong.append(f"{name}: no path through the code does this work")
        elif old is None:
            wrong.append(f"{name}: not in {CYCLES.name}: run python -m benchmarks.cuda_kernels")
        elif old["compiler"] == row["compiler"] and int(row["cycles"]) > int(old["cycles"]) * SLACK:
            wrong.append(f"{name}: {row['cycles']} cycles, {old['cycles']} in the table")
    return wrong


def committed_rows(table: Path = RESULTS) -> list[dict[str, str]]:
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def write(table: Path, columns: list[str], rows: list[dict[str, str]]) -> None:
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the committed tables")
    options = parser.parse_args(argv)
    compiler = nvcc()
    if compiler is None:
        parser.error("nvcc was not found")
    if not options.check and disassembler(compiler) is None:
        parser.error("nvdisasm was not found: it comes with CUDA's toolkit and with triton")
    found = report(compiler)
    wrong = offences(found.kernels, committed_rows() if options.check else None)
    wrong += slower(found.events, committed_rows(CYCLES) if options.check else found.events)
    if not options.check:
        write(RESULTS, [*COLUMNS, *COUNTED, *HOT], found.kernels)
        write(CYCLES, EVENT_COLUMNS, found.events)
    print("\n".join(wrong) or f"{len(found.kernels)} kernels and {len(found.events)} events without an offence")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
