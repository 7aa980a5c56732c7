"""`python -m benchmarks.table`: writes the README's table from the newest rows of benchmarks/results/sampling.csv."""

from __future__ import annotations

import csv
from pathlib import Path

from .run import RESULTS

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- benchmarks/table.py -->\n", "<!-- end -->"


def newest(path: Path) -> dict[str, list[dict[str, str]]]:
    """Rows of every case of the last run, ours first: one machine, one commit, one day."""
    runs: dict[str, list[dict[str, str]]] = {}
    about = ("device", "isa", "threads", "torch", "commit", "date")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        if all(row[key] == rows[-1][key] for key in about):
            if row["contender"] == "vlae_fast":
                runs[row["case"]] = []
            runs[row["case"]].append(row)
    return runs


def table(runs: dict[str, list[dict[str, str]]]) -> str:
    lines = [
        "| sampling | naive eager | vlae_fast | faster | live GFLOP/s (sgemm in the same run) |",
        "|---|---|---|---|---|",
    ]
    for case, (ours, naive) in runs.items():
        cells = [
            case,
            f"{float(naive['p50_ms']) / 1e3:.2f} s" + (" (scaled)" if "scaled" in naive["contender"] else ""),
            f"{float(ours['p50_ms']):.2f} ms",
            f"{float(naive['speedup']):,.0f}x",
            f"{float(ours['gflops']):.0f} ({float(ours['sgemm_gflops']):.0f})",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    first = next(iter(runs.values()))[0]
    machine = f"{first['device']}, {first['threads']} threads, {first['isa']}, torch {first['torch']}, {first['date']}"
    note = (
        f"\nMeasured by `python -m benchmarks.run` on: {machine}.\n"
        "Medians of one run, contenders taking turns, every image compared first. Where scaled, the naive sampler was\n"
        "timed on the first rows only and multiplied up; it is plain PyTorch with the masks applied beforehand.\n"
    )
    return "\n".join(lines) + "\n" + note


def main() -> None:
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    README.write_text(before + BEGIN + table(newest(RESULTS / "sampling.csv")) + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
