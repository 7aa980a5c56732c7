"""The CSV files of results: their columns, how rows are added, and which rows are the last run's.

A processor has a folder of its own in benchmarks/results, and in it a file per suite.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

from .cases import CPU_SUITES

RESULTS = Path(__file__).parent / "results"
OURS = "vlae_fast"
ABOUT = ("device", "isa", "threads", "torch", "mkl", "commit", "date")
COLUMNS = (
    *("suite", "case", "contender", "backend", "dtype", "p20_ms", "p50_ms", "p80_ms", "speedup", "peak_mb"),
    *("gflops", "matmul_gflops", "matmul_by", "fraction_of_matmul", "gb_per_s", "copy_gb_per_s", "fraction_of_copy"),
    *ABOUT,
)

Row = dict[str, str]
Run = dict[str, list[Row]]


def folder_of(about: Row) -> str:
    """The folder of a processor's results: device and instruction set, such as amd-epyc-avx512."""
    return re.sub(r"[^a-z0-9]+", "-", f"{about['device']} {about['isa']}".lower()).strip("-")


def share(row: Row) -> str:
    """Live work of a row as a share of the fastest matrix product of the same run; "" where work is not counted."""
    return "" if row["gflops"] == "nan" else f"{float(row['fraction_of_matmul']):.0%}"


def check_columns(path: Path) -> None:
    """Raises ValueError where a file of results has other columns than today's rows."""
    if not path.exists():
        return
    with path.open(newline="") as file:
        found = next(csv.reader(file), [])
    if found != list(COLUMNS):
        missing, unknown = (
            ", ".join(sorted(set(a) - set(b))) or "none" for a, b in ((COLUMNS, found), (found, COLUMNS))
        )
        raise ValueError(
            f"{path}: columns must be {','.join(COLUMNS)} in this order, got {','.join(found)} "
            f"(missing: {missing}; unknown: {unknown}): move the file away, or name another folder with --out"
        )


def append(path: Path, rows: list[Row]) -> None:
    """Adds rows to a file of results, which is made where there is none."""
    check_columns(path)
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if new:
            writer.writeheader()
        writer.writerows(rows)


def last_run(path: Path) -> Run:
    """Rows of every case of the last run, ours first: one machine, one commit, one day."""
    check_columns(path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    runs: Run = {}
    for row in rows:
        if all(row[key] == rows[-1][key] for key in ABOUT):
            if row["contender"] == OURS:
                runs[row["case"]] = []
            runs[row["case"]].append(row)
    return runs


def last_runs(folder: Path) -> dict[str, dict[str, Run]]:
    """The last run of every suite with results in a folder, the runs on a CPU apart from those on a GPU.

    The keys are the suffixes of the tables and pictures that show them: "" and "_gpu".

    Raises:
        FileNotFoundError: no suite has results.
    """
    found = {}
    for suffix, suites in {"": tuple(CPU_SUITES), "_gpu": ("gpu",)}.items():
        if runs := {suite: last_run(path) for suite in suites if (path := folder / f"{suite}.csv").exists()}:
            found[suffix] = runs
    if not found:
        raise FileNotFoundError(f"{folder}: no results; run `python -m benchmarks.run` first")
    return found


def by_processor(folder: Path) -> dict[str, dict[str, dict[str, Run]]]:
    """`last_runs` of every processor that has a folder of results, by the folder's name.

    Raises:
        FileNotFoundError: none has.
    """
    folders = sorted({path.parent for path in folder.glob("*/*.csv")})
    if not folders:
        raise FileNotFoundError(f"{folder}: no results; run `python -m benchmarks.run` first")
    return {path.name: last_runs(path) for path in folders}
