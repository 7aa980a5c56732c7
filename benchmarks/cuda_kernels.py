"""`python -m benchmarks.cuda_kernels`: compiles every CUDA kernel for every architecture, without a GPU.

Writes registers, stack and static shared memory of each to ``results/``, and how many of its instructions divide
integers, convert, or load constants; fails where a kernel spills or has a stack. ``--check`` compares with what is
there instead: by the same compiler, more registers are a finding too.
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

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).parent / "results" / "cuda_kernels.csv"
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
    """cuobjdump, of the compiler's toolkit or of triton."""
    triton = importlib.util.find_spec("triton")
    places = [Path(compiler).with_name("cuobjdump")]
    if triton is not None and triton.origin is not None:
        places.append(Path(triton.origin).with_name("backends") / "nvidia" / "bin" / "cuobjdump")
    return next((str(place) for place in places if os.access(place, os.X_OK)), shutil.which("cuobjdump"))


def counts(listing: str) -> dict[str, dict[str, str]]:
    """Of every kernel in a disassembly the numbers of instructions that `COUNTED` names."""
    found = {}
    for part in re.split(r"^\s*Function : ", listing, flags=re.MULTILINE)[1:]:
        names = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ +)?([A-Z][\w.]*)", part, flags=re.MULTILINE)
        found[part.split()[0]] = {
            column: str(sum(name.startswith(starts) for name in names)) for column, starts in COUNTED.items()
        }
    return found


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


def rows_of(compiler: str, source: str, flags: list[str]) -> Iterator[dict[str, str]]:
    """A row per kernel of a source, for the one architecture that the flags name."""
    with tempfile.TemporaryDirectory() as folder:
        target = str(Path(folder, "kernel.o"))
        command = [compiler, *flags, "-Icsrc", "--resource-usage", "-c", f"csrc/{source}", "-o", target]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(done.stderr)
        tool = disassembler(compiler)
        listing = [tool, "-sass", target] if tool else ["true"]
        counted = counts(subprocess.run(listing, capture_output=True, text=True, check=True).stdout)
    found = list(KERNEL.finditer(done.stdout + done.stderr))
    for match, kernel in zip(found, demangled([m["kernel"] for m in found]), strict=True):
        shared = re.search(r"(\d+) bytes smem", match["rest"])
        spills = int(match["stores"]) + int(match["loads"])
        values = (source, kernel, match["arch"], match["registers"], match["stack"], spills, shared[1] if shared else 0)
        yield dict(zip(COLUMNS, (*map(str, values), release(compiler)), strict=True)) | counted.get(match["kernel"], {})


def report(compiler: str) -> list[dict[str, str]]:
    plan = json.loads((ROOT / "csrc/build.json").read_text())["cuda"]
    sources = [source for source in plan["sources"] if source.endswith(".cu")]
    cubins = [flag for name, flag in plan["architectures"].items() if not name.startswith("ptx")]
    jobs = [(source, [*plan["nvcc_flags"], flag]) for source in sources for flag in cubins]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(lambda job: list(rows_of(compiler, *job)), jobs)
    return sorted((row for rows in found for row in rows), key=key_of)


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
        if old["compiler"] == row["compiler"] and int(row["registers"]) > int(old["registers"]):
            wrong.append(
                f"{row['kernel']} {row['arch']}: {row['registers']} registers, {old['registers']} in the table"
            )
    return wrong


def committed_rows() -> list[dict[str, str]]:
    with RESULTS.open(newline="") as file:
        return list(csv.DictReader(file))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the committed table")
    options = parser.parse_args(argv)
    compiler = nvcc()
    if compiler is None:
        parser.error("nvcc was not found")
    if not options.check and disassembler(compiler) is None:
        parser.error("cuobjdump was not found: it comes with CUDA's toolkit and with triton")
    rows = report(compiler)
    wrong = offences(rows, committed_rows() if options.check else None)
    if not options.check:
        with RESULTS.open("w", newline="") as file:
            writer = csv.DictWriter(file, [*COLUMNS, *COUNTED])
            writer.writeheader()
            writer.writerows(rows)
    print("\n".join(wrong) or f"{len(rows)} kernels without an offence")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
