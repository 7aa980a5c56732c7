"""`python -m benchmarks.table`: writes the README's table from the last run in benchmarks/results/*.csv."""

from __future__ import annotations

from .records import RESULTS, Row, Run, last_runs

README = RESULTS.parent.parent / "README.md"
BEGIN, END = "<!-- benchmarks/table.py -->\n", "<!-- end -->"
PICTURES = {"speedup": "How much longer others take", "roofline": "Live work and the measured ceilings"}


def milliseconds(row: Row) -> str:
    value = float(row["p50_ms"])
    return f"{value / 1e3:.2f} s" if value >= 1e3 else f"{value:.2f} ms"


def times(row: Row) -> str:
    value = float(row["speedup"])
    return f"{value:,.0f}x" if value >= 100 else f"{value:.1f}x" if value >= 10 else f"{value:.2f}x"


def cost(row: Row) -> str:
    peak = "" if row["peak_mb"] == "nan" else f", {float(row['peak_mb']):.3g} MB"
    return milliseconds(row) + peak


def rate(row: Row, ours: str, ceiling: str) -> str:
    return "" if row[ours] == "nan" else f"{float(row[ours]):.3g} ({float(row[ceiling]):.0f})"


def table(runs: Run) -> str:
    lines = [
        "| case | vlae_fast | how much longer others take | live GFLOP/s (matmul) | GB/s (copy) |",
        "|---|---|---|---|---|",
    ]
    for case, (ours, *peers) in runs.items():
        others = "; ".join(f"{row['contender']} {cost(row)}: **{times(row)}**" for row in peers)
        work, traffic = rate(ours, "gflops", "matmul_gflops"), rate(ours, "gb_per_s", "copy_gb_per_s")
        lines.append(f"| {case} | {cost(ours)} | {others} | {work} | {traffic} |")
    return "\n".join(lines)


def pictures(suffix: str) -> str:
    there = {f"{name}{suffix}": title for name, title in PICTURES.items() if (RESULTS / f"{name}{suffix}.png").exists()}
    return "".join(f"![{title}](benchmarks/results/{name}.png)\n" for name, title in there.items())


def section(suites: dict[str, Run], suffix: str) -> str:
    """Table and pictures of the suites of one machine."""
    runs = {case: rows for run in suites.values() for case, rows in run.items()}
    first = next(iter(runs.values()))[0]
    machine = f"{first['device']}, {first['threads']} threads, {first['isa']}, torch {first['torch']}, {first['date']}"
    return f"{table(runs)}\n\nMeasured by `python -m benchmarks.run` on: {machine}.\n{pictures(suffix)}"


def main() -> None:
    note = (
        "\nMedians of one run, contenders taking turns, each case checked against the reference first; MB: peak of a\n"
        "call beyond what was held before it. Where scaled, the naive sampler was timed on the first rows and\n"
        "multiplied up; it is plain PyTorch, masked beforehand. Layers and MADEs (`made-*`): forward + backward\n"
        "unless the name says forward; `maf-*`: the inverse.\n"
    )
    sections = [section(suites, suffix) for suffix, suites in last_runs(RESULTS).items()]
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    README.write_text(before + BEGIN + "\n".join(sections) + note + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
