"""`python -m benchmarks.kernels`: compiles every Triton kernel ahead of time, as the ops launch it, without a GPU.

Writes registers, local memory (spills), shared memory, the matrix instructions and counts of the hot loops of each to
``results/``; fails where a kernel spills, or where a matrix product in 16 bits is done without a matrix instruction.
Rows are those of the Triton that is imported; what others compiled stays in the file. Cases are written one by one:
``--missing`` goes on where a run was ended. ``--check`` looks for faults alone: it compiles each 16-bit type for one
architecture, of whose kernels the other's differ little, reads no machine code and writes no report.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction
from vlae_fast.kernels import launch

from vlae_fast.kept import plans_anew

from .launches import LAUNCHES
from .machine_code import hot_loops, matrix_instruction

RESULTS = Path(__file__).parent / "results" / "triton_kernels.csv"
COLUMNS = (
    *("triton", "case", "kernel", "dtype", "arch", "registers", "local_bytes", "shared_bytes", "warps"),
    *("matrix_instruction", "async_copies", "loops", "loop_instructions"),
    *("loop_divisions", "loop_conversions", "loop_constant_loads"),
)
ARCHITECTURES = (80, 90)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ALL = tuple((dtype, arch) for dtype in DTYPES for arch in ARCHITECTURES)
CHECKED = ((torch.float32, 80), (torch.float32, 90), (torch.bfloat16, 90), (torch.float16, 80))
TYPES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float64: "fp64",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.bool: "i1",
}
TOOLS = Path(triton.backends.nvidia.__file__ or "").parent / "bin"


class Launched(NamedTuple):
    kernel: JITFunction
    args: dict[str, Any]  # by name
    options: dict[str, Any]
    grid: tuple[int, ...]


@contextmanager
def recorded(arch: int) -> Iterator[list[Launched]]:
    """Launches are written down instead of made, with the block sizes of an architecture such as 90."""
    launches: list[Launched] = []

    def run(self: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        given = dict(zip(self.arg_names, args, strict=False))
        given |= {name: kwargs.pop(name) for name in list(kwargs) if name in self.arg_names}
        launches.append(Launched(self, {name: given[name] for name in self.arg_names}, kwargs, grid))

    with (
        mock.patch.object(JITFunction, "run", run),
        mock.patch.object(launch, "device_names", lambda device: (f"sm_{arch}",)),
        mock.patch.object(launch, "_config", launch._config.__wrapped__),  # whose cache knows no architectures
        plans_anew(),
    ):
        yield launches


def source_of(kernel: JITFunction, args: dict[str, Any]) -> ASTSource:
    """The specialisation that a launch with these arguments would compile: constants, ones, multiples of 16."""
    signature, constants, attributes = {}, {}, {}
    for i, (parameter, value) in enumerate(zip(kernel.params, args.values(), strict=True)):
        if parameter.is_constexpr:
            signature[parameter.name], constants[(i,)] = "constexpr", value
            continue
        free = parameter.do_not_specialize  # whatever its value, the binary is the same
        signature[parameter.name] = _specialised(value, (i,), free, constants, attributes)
    return ASTSource(kernel, signature, constants, attributes)


def _specialised(value: Any, path: tuple[int, ...], free: bool, constants: dict, attributes: dict) -> Any:
    """The type of an argument, or of each in a tuple; what is known of it goes into constants and attributes."""
    if isinstance(value, tuple):
        return tuple(_specialised(one, (*path, i), free, constants, attributes) for i, one in enumerate(value))
    if value is None or (type(value) is int and value == 1 and not free):
        constants[path] = value
        return "constexpr"
    aligned = value.data_ptr() if isinstance(value, Tensor) else value
    if not free and not isinstance(aligned, float) and aligned % 16 == 0:
        attributes[path] = [["tt.divisibility", 16]]
    return _type_of(value)


def _type_of(value: Tensor | int | float) -> str:
    if isinstance(value, Tensor):
        return "*" + TYPES[value.dtype]
    return "fp32" if isinstance(value, float) else "i32" if -(2**31) <= value < 2**31 else "i64"


class Binary(NamedTuple):
    """What Triton made of a kernel; its registers, bytes of stack and, where asked, code as of ``nvdisasm -hex``."""

    made: Any
    registers: int
    stack: int
    code: str


def compiled(launched: Launched, arch: int, *, with_code: bool = True) -> Binary:
    """A launch, compiled for an architecture such as 90."""
    source, target = source_of(launched.kernel, launched.args), GPUTarget("cuda", arch, 32)
    binary = triton.compile(source, target=target, options=launched.options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        usage = _said("cuobjdump", "-res-usage", file.name)
        code = _said("nvdisasm", "-c", "-hex", file.name) if with_code else ""
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found, f"no resource usage in {usage!r}"
    return Binary(binary, int(found[1]), int(found[2]), code)


def row_of(launched: Launched, arch: int, *, with_loops: bool = True) -> dict[str, Any]:
    """Row of the report for one launch, or what of it `offence` asks for."""
    binary, registers, stack, code = compiled(launched, arch, with_code=with_loops)
    row = {
        "triton": triton.__version__,
        "kernel": binary.metadata.name,  # as a profiler shows it
        "arch": f"sm_{arch}",
        "registers": registers,
        "local_bytes": stack,
        "shared_bytes": binary.metadata.shared,
        "warps": binary.metadata.num_warps,
        "matrix_instruction": matrix_instruction(binary.asm["ptx"]),
        "async_copies": "cp.async.c" in binary.asm["ptx"],
        "product": "tt.dot" in binary.asm["ttir"],
    }
    if with_loops:
        loops = hot_loops(code)
        row |= {
            "loops": loops.loops,
            "loop_instructions": loops.instructions,
            "loop_divisions": loops.divisions,
            "loop_conversions": loops.conversions,
            "loop_constant_loads": loops.constant_loads,
        }
    return row


def _said(tool: str, *words: str) -> str:
    return subprocess.run([str(TOOLS / tool), *words], capture_output=True, text=True, check=True).stdout


def rows_of(case: str) -> list[dict[str, Any]]:
    """Every kernel that a case launches in any dtype, for every architecture, once each."""
    return [row for dtype, arch in ALL for row in _rows_of(case, dtype, arch)]


def checked_rows_of(case: str) -> list[dict[str, Any]]:
    """As `rows_of`, of the dtypes and architectures in `CHECKED`."""
    return [row for dtype, arch in CHECKED for row in _rows_of(case, dtype, arch, with_loops=False)]


def _rows_of(case: str, dtype: torch.dtype, arch: int, *, with_loops: bool = True) -> Iterator[dict[str, Any]]:
    call = LAUNCHES[case](dtype)
    with recorded(arch) as launches:
        call()
    seen = set()
    for launched in launches:
        row = row_of(launched, arch, with_loops=with_loops)
        key = (row["kernel"], row["registers"], row["shared_bytes"], row["matrix_instruction"])
        if key not in seen:
            seen.add(key)
            yield {"case": case, "dtype": str(dtype).removeprefix("torch."), **row}


def offence(row: dict[str, Any]) -> str | None:
    """The fault of a compiled kernel, or None."""
    if row["local_bytes"]:
        return f"spills: {row['local_bytes']} bytes of local memory a thread"
    if row["product"] and row["dtype"] != "float32" and not row["matrix_instruction"]:
        return "a matrix product in 16 bits without a matrix instruction"
    return None


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Puts rows into a report, in the place of those of the same Triton and case; by Triton, then as `LAUNCHES` is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replaced = {(row["triton"], row["case"]) for row in rows}
    kept = [row for row in read(path) if (row["triton"], row["case"]) not in replaced and row["case"] in LAUNCHES]
    order = list(LAUNCHES)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(sorted([*kept, *rows], key=lambda row: (row["triton"], order.index(row["case"]))))


def read(path: Path) -> list[dict[str, str]]:
    """Rows of a report; none where it is not there."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def missing(path: Path, cases: Sequence[str]) -> list[str]:
    """The cases that a report has no rows of by this Triton."""
    there = {row["case"] for row in read(path) if row["triton"] == triton.__version__}
    return [case for case in cases if case not in there]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=LAUNCHES, action="append", help="default: all")
    parser.add_argument("--missing", action="store_true", help="only cases that the report has no rows of")
    parser.add_argument("--check", action="store_true", help="faults alone, of fewer kernels; no report")
    parser.add_argument("--jobs", type=int, help="processes that compile, default: one for each core")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(argv)
    if os.environ.get("TRITON_INTERPRET") == "1":
        parser.error("TRITON_INTERPRET=1 replaces the compiler by the interpreter: unset it")
    cases = list(options.case or LAUNCHES)
    if options.missing:
        cases = missing(options.out, cases)
    count, offences = 0, []
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        for case_rows in pool.map(checked_rows_of if options.check else rows_of, cases):
            for row in case_rows:
                if (wrong := offence(row)) is not None:
                    offences.append(f"{row['case']} {row['kernel']} {row['dtype']} {row['arch']}: {wrong}")
            if not options.check:
                write(options.out, [{name: row[name] for name in COLUMNS} for row in case_rows])
            count += len(case_rows)
            print(f"{case_rows[0]['case']}: {len(case_rows)} kernels", flush=True)
    where = "" if options.check else f": {options.out}"
    print("\n".join(offences) or f"{count} kernels without an offence{where}")
    return 1 if offences else 0


if __name__ == "__main__":
    sys.exit(main())
