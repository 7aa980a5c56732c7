"""`python -m benchmarks.table`: writes the README's table from the last run in benchmarks/results/*.csv."""

from __future__ import annotations

import csv
from pathlib import Path

from .cases import SUITES
from .run import OURS, RESULTS

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- benchmarks/table.py -->\n", "<!-- end -->"
ABOUT = ("device", "isa", "threads", "torch", "commit", "date")

Run = dict[str, list[dict[str, str]]]


def last_run(path: Path) -> Run:
    """Rows of every case of the last run, ours first: one machine, one commit, one day."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    runs: Run = {}
    for row in rows:
        if all(row[key] == rows[-1][key] for key in ABOUT):
            if row["contender"] == OURS:
                runs[row["case"]] = []
            runs[row["case"]].append(row)
    return runs


def milliseconds(row: dict[str, str]) -> str:
    value = float(row["p50_ms"])
    return f"{value / 1e3:.2f} s" if value >= 1e3 else f"{value:.2f} ms"


def times(row: dict[str, str]) -> str:
    value = float(row["speedup"])
    return f"{value:,.0f}x" if value >= 100 else f"{value:.1f}x" if value >= 10 else f"{value:.2f}x"


def table(runs: Run) -> str:
    lines = ["| case | vlae_fast | how much longer others take | live GFLOP/s (sgemm) |", "|---|---|---|---|"]
    for case, (ours, *peers) in runs.items():
        others = "; ".join(f"{row['contender']} {milliseconds(row)}: **{times(row)}**" for row in peers)
        work = "" if ours["gflops"] == "nan" else f"{float(ours['gflops']):.0f} ({float(ours['sgemm_gflops']):.0f})"
        lines.append(f"| {case} | {milliseconds(ours)} | {others} | {work} |")
    return "\n".join(lines)


def main() -> None:
    runs: Run = {}
    for suite in SUITES:
        if (path := RESULTS / f"{suite}.csv").exists():
            runs |= last_run(path)
    first = next(iter(runs.values()))[0]
    machine = f"{first['device']}, {first['threads']} threads, {first['isa']}, torch {first['torch']}, {first['date']}"
    note = (
        f"\nMeasured by `python -m benchmarks.run` on: {machine}.\n"
        "Medians of one run, contenders taking turns, each case checked against the reference first. Where scaled,\n"
        "the naive sampler was timed on the first rows and multiplied up; it is plain PyTorch, masked beforehand.\n"
        "Layers and MADEs (`made-*`): forward + backward unless the name says forward; `maf-*`: the inverse.\n"
    )
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    README.write_text(before + BEGIN + table(runs) + "\n" + note + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
