"""`python -m benchmarks.kernels`: compiles every Triton kernel ahead of time, as the ops launch it, without a GPU.

Writes registers, local memory (spills), shared memory and the matrix instruction of each to ``results/``; fails where a
kernel spills, or where a matrix product in 16 bits is done without a matrix instruction.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from .launches import LAUNCHES

RESULTS = Path(__file__).parent / "results" / "triton_kernels.csv"
COLUMNS = "case kernel dtype arch registers local_bytes shared_bytes warps matrix_instruction async_copies".split()
ARCHITECTURES = (80, 90)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TYPES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float64: "fp64",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.bool: "i1",
}
CUOBJDUMP = Path(triton.backends.nvidia.__file__ or "").parent / "bin" / "cuobjdump"


@contextmanager
def recorded() -> Iterator[list[tuple[JITFunction, dict[str, Any], dict[str, Any]]]]:
    """Launches are written down instead of made: kernel, its arguments by name, and the options."""
    launches: list[tuple[JITFunction, dict[str, Any], dict[str, Any]]] = []

    def run(self: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        given = dict(zip(self.arg_names, args, strict=False))
        given |= {name: kwargs.pop(name) for name in list(kwargs) if name in self.arg_names}
        launches.append((self, {name: given[name] for name in self.arg_names}, kwargs))

    with mock.patch.object(JITFunction, "run", run):
        yield launches


def source_of(kernel: JITFunction, args: dict[str, Any]) -> ASTSource:
    """The specialisation that a launch with these arguments would compile: constants, ones, multiples of 16."""
    signature, constants, attributes = {}, {}, {}
    for i, (parameter, value) in enumerate(zip(kernel.params, args.values(), strict=True)):
        free = parameter.do_not_specialize  # whatever its value, the binary is the same
        constant = parameter.is_constexpr or value is None or (type(value) is int and value == 1 and not free)
        if constant:
            constants[(i,)] = value
        signature[parameter.name] = "constexpr" if constant else _type_of(value)
        aligned = value.data_ptr() if isinstance(value, Tensor) else value
        if not constant and not free and not isinstance(aligned, float) and aligned % 16 == 0:
            attributes[(i,)] = [["tt.divisibility", 16]]
    return ASTSource(kernel, signature, constants, attributes)


def _type_of(value: Tensor | int | float) -> str:
    if isinstance(value, Tensor):
        return "*" + TYPES[value.dtype]
    return "fp32" if isinstance(value, float) else "i32" if -(2**31) <= value < 2**31 else "i64"


def compiled(kernel: JITFunction, args: dict[str, Any], options: dict[str, Any], arch: int) -> dict[str, Any]:
    """Row of the report for one launch."""
    binary = triton.compile(source_of(kernel, args), target=GPUTarget("cuda", arch, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        words = [str(CUOBJDUMP), "-res-usage", file.name]
        usage = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found, f"no resource usage in {usage!r}"
    ptx = binary.asm["ptx"]
    instruction = next((name for name in ("wgmma.mma_async", "mma.sync") if name in ptx), "")
    return {
        "kernel": binary.metadata.name,  # as a profiler shows it
        "arch": f"sm_{arch}",
        "registers": int(found[1]),
        "local_bytes": int(found[2]),
        "shared_bytes": binary.metadata.shared,
        "warps": binary.metadata.num_warps,
        "matrix_instruction": instruction,
        "async_copies": "cp.async.c" in ptx,
        "product": "tt.dot" in binary.asm["ttir"],
    }


def rows_of(case: str) -> list[dict[str, Any]]:
    """Every kernel that a case launches in any dtype, for every architecture, once each."""
    return [row for dtype in DTYPES for arch in ARCHITECTURES for row in _rows_of(case, dtype, arch)]


def _rows_of(case: str, dtype: torch.dtype, arch: int) -> Iterator[dict[str, Any]]:
    call = LAUNCHES[case](dtype)
    with recorded() as launches:
        call()
    seen = set()
    for kernel, args, options in launches:
        row = compiled(kernel, args, options, arch)
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


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=LAUNCHES, action="append", help="default: all")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(argv)
    if os.environ.get("TRITON_INTERPRET") == "1":
        parser.error("TRITON_INTERPRET=1 replaces the compiler by the interpreter: unset it")
    rows, offences = [], []
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for case_rows in pool.map(rows_of, options.case or LAUNCHES):
            for row in case_rows:
                if (wrong := offence(row)) is not None:
                    offences.append(f"{row['case']} {row['kernel']} {row['dtype']} {row['arch']}: {wrong}")
                rows.append({name: row[name] for name in COLUMNS})
            print(f"{case_rows[0]['case']}: {len(case_rows)} kernels", flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    print("\n".join(offences) or f"{len(rows)} kernels without an offence: {options.out}")
    return 1 if offences else 0


if __name__ == "__main__":
    sys.exit(main())
