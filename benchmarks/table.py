"""`python -m benchmarks.table`: writes the tables of README.md and benchmarks/README.md from the last runs' results."""

from __future__ import annotations

from pathlib import Path

from .records import RESULTS, Row, Run, by_processor, share

README = RESULTS.parent.parent / "README.md"
BEGIN, END = "<!-- benchmarks/table.py -->\n", "<!-- end -->"
PICTURES = {"speedup": "How much longer others take", "roofline": "Live work and the measured ceilings"}
CHOSEN = {  # case -> what it is, of the README's table, and the peers that stand there
    "28x28-64ch-3gated-batch1": ("draw an image, default decoder", ("cached plain PyTorch", "naive eager")),
    "gated-3x3B-64ch-28x28-batch64": ("gated 3x3, 64 channels, forward + backward", ("torch.compile", "eager")),
    "made-784-1024-1024-1568-batch256": ("MADE of 784 inputs, forward + backward", ("torch.compile", "eager")),
    "maf-784-2x1024-batch64": ("inverse of a MAF of 784 dimensions", ("one dense forward pass", "zuko")),
    "vlae-default-batch64": ("training step of the default VLAE", ("torch.compile", "eager")),
}
BRIEF = """\
Live work as a share of the fastest matrix product on that processor (MKL's or oneDNN's, in that run), how much longer
others take, and our time: medians of one run, each case checked first. More: [benchmarks](benchmarks/README.md).
"""
ABOUT = """\
# Benchmarks

    python -m benchmarks.run      # every case on this machine: checked against the reference, timed beside its peers
    python -m benchmarks.table    # this page, and the table of the project's README
    python -m benchmarks.plot     # the pictures

Medians of one run, contenders taking turns, each case checked against the reference first. Live GFLOP/s count no
product with a masked weight; the share is that of the fastest product of two square matrices in that run, MKL's or
oneDNN's. MB: peak of a call beyond what was held before it. Where scaled, the naive sampler was timed on the first
rows and multiplied up; it is plain PyTorch, masked beforehand. Naive and cached samplers use all threads, as ours
does. Layers and MADEs (`made-*`): forward + backward unless the name says forward; `maf-*`: the inverse.
"""


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
    """Every case of one processor."""
    lines = [
        "| case | share of matmul | vlae_fast | how much longer others take | live GFLOP/s (matmul) | GB/s (copy) |",
        "|---|---|---|---|---|---|",
    ]
    for case, (ours, *peers) in runs.items():
        others = "; ".join(f"{row['contender']} {cost(row)}: **{times(row)}**" for row in peers)
        work, traffic = rate(ours, "gflops", "matmul_gflops"), rate(ours, "gb_per_s", "copy_gb_per_s")
        lines.append(f"| {case} | {share(ours)} | {cost(ours)} | {others} | {work} | {traffic} |")
    return "\n".join(lines)


def together(suites: dict[str, Run]) -> Run:
    """The cases of all suites."""
    return {case: rows for run in suites.values() for case, rows in run.items()}


def machine(runs: Run) -> str:
    row = _any_row(runs)
    mkl = f", MKL's code for {row['mkl']}" if row["mkl"] else ""
    return f"{row['device']}, {row['threads']} threads, {row['isa']}, torch {row['torch']}{mkl}"


def brief(processors: list[Run]) -> str:
    """The chosen cases, a column for each processor."""
    heads = [_head(_any_row(runs)) for runs in processors]
    lines = [f"| | {' | '.join(heads)} |", "|---" * (1 + len(processors)) + "|"]
    for case, (name, peers) in CHOSEN.items():
        cells = [_cell(runs[case], peers) if case in runs else "" for runs in processors]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _head(row: Row) -> str:
    return f"{row['device']}, {row['isa']}, {row['threads']} thread{'' if row['threads'] == '1' else 's'}"


def _any_row(runs: Run) -> Row:
    return next(iter(runs.values()))[0]


def _cell(rows: list[Row], chosen: tuple[str, ...]) -> str:
    """Share, ratios of the chosen peers in their order, time."""
    by_name = {row["contender"].partition(" (")[0]: row for row in rows[1:]}
    others = ", ".join(f"**{times(by_name[name])}** {name}" for name in chosen if name in by_name)
    return "; ".join(part for part in (share(rows[0]), others, milliseconds(rows[0])) if part)


def pictures(name: str, suffix: str) -> str:
    """The pictures of a processor that there are, as a page in benchmarks/ shows them."""
    there = {f"{picture}{suffix}.png": title for picture, title in PICTURES.items()}
    return "".join(f"![{title}](results/{name}/{file})\n" for file, title in there.items() if _picture(name, file))


def _picture(name: str, file: str) -> bool:
    return (RESULTS / name / file).exists()


def sections(found: dict[str, dict[str, dict[str, Run]]]) -> str:
    """Table and pictures of each processor's last runs."""
    parts = []
    for name, by_suffix in found.items():
        for suffix, suites in by_suffix.items():
            runs = together(suites)
            dates = sorted({rows[0]["date"] for rows in runs.values()})
            title = f"## {machine(runs)}\n\nMeasured {' and '.join(dates)}.\n\n"
            parts.append(f"{title}{table(runs)}\n\n{pictures(name, suffix)}")
    return "\n".join(parts)


def replaced(text: str, between: str, begin: str = BEGIN) -> str:
    """The text of a file with `between` in place of what stands between the marks."""
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(END)
    return before + begin + between + END + after


def write(found: dict[str, dict[str, dict[str, Run]]], readme: Path) -> None:
    """Writes the table of the README, and the page of all results beside benchmarks/results."""
    processors = [together(suites) for by_suffix in found.values() for suites in by_suffix.values()]
    text = readme.read_text(encoding="utf-8")
    readme.write_text(replaced(text, f"{brief(processors)}\n{BRIEF}"), encoding="utf-8")
    (readme.parent / "benchmarks" / "README.md").write_text(f"{ABOUT}\n{sections(found)}", encoding="utf-8")


if __name__ == "__main__":
    write(by_processor(RESULTS), README)
