"""`python -m benchmarks.plot`: draws the results of each processor as PNG, speed-ups and a roofline."""

from __future__ import annotations

import argparse
from itertools import cycle
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from .records import OURS, RESULTS, Row, Run, by_processor, last_runs

ROW_IN = 0.36  # height of a case
MARKERS = "osD^vPX*"
PEERS = {  # words that a peer's name starts with -> marker and colour: one look for a peer in every suite
    "cached plain PyTorch in a CUDA graph": ("d", "tab:pink"),
    "cached plain PyTorch": ("D", "tab:purple"),
    "naive in a CUDA graph": ("v", "tab:brown"),
    "naive eager": ("o", "tab:blue"),
    "naive torch.compile": ("s", "tab:orange"),
    "eager channels_last": ("^", "tab:cyan"),
    "eager": ("o", "tab:blue"),
    "torch.compile": ("s", "tab:orange"),
    "vlae_fast torch.compile": ("*", "tab:olive"),
    "vlae_fast torch": ("h", "tab:gray"),
    "layer by layer": ("<", "tab:green"),
    "held in float32": (">", "tab:pink"),
    "D passes in a CUDA graph": ("v", "tab:brown"),
    "D passes, plain PyTorch": ("o", "tab:blue"),
    "zuko": ("P", "tab:green"),
    "nflows": ("X", "tab:red"),
    "one dense forward pass": ("|", "black"),
}
SUITES = {
    "sampling": "tab:purple",
    "layers": "tab:blue",
    "flows": "tab:green",
    "training": "tab:red",
    "gpu": "tab:blue",
}


def machine(row: Row) -> str:
    return (
        f"{row['device']}, {row['threads']} threads, {row['isa']}, torch {row['torch']}, {row['commit']}, {row['date']}"
    )


def peer_of(contender: str) -> str:
    return next(name for name in PEERS if contender.startswith(name))


def plain_number(value: float, _: object = None) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:g}"


def speedups(axes: Axes, suite: str, run: Run) -> None:
    """A line per case, a mark per peer: how many times as long as ours it takes."""
    found = {peer_of(row["contender"]) for rows in run.values() for row in rows[1:]}
    seen = [peer for peer in PEERS if peer in found]
    for y, peers in enumerate(rows[1:] for rows in run.values()):
        for row in peers:
            marker, colour = PEERS[peer := peer_of(row["contender"])]
            shift = 0.22 * (seen.index(peer) - (len(seen) - 1) / 2)  # peers that take as long do not hide each other
            axes.plot(float(row["speedup"]), y + shift, marker, color=colour, markersize=6, mew=1.5)
    axes.set_yticks(range(len(run)), list(run))
    axes.set_ylim(len(run) - 0.4, -0.6)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    left, right = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5) if right < 20 * left else (1, 3)))
    axes.xaxis.set_major_formatter(FuncFormatter(plain_number))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="x", color="0.9")
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    axes.set_title(suite, loc="left", fontsize=10, fontweight="bold")
    handles = [Line2D([], [], linestyle="", marker=PEERS[p][0], color=PEERS[p][1], label=p) for p in seen]
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.02), fontsize=9, frameon=False)


def speedup_figure(runs: dict[str, Run]) -> Figure:
    heights = [max(len(run), 2) for run in runs.values()]
    figure = Figure(figsize=(11, ROW_IN * sum(heights) + 0.7 * len(heights) + 0.9), layout="constrained")
    panels = figure.subplots(len(runs), squeeze=False, height_ratios=heights)[:, 0]
    for axes, (suite, run) in zip(panels, runs.items(), strict=True):
        speedups(axes, suite, run)
    panels[-1].set_xlabel(f"time of the other / time of {OURS} (medians of one run); right of 1: {OURS} is faster")
    figure.suptitle(f"How much longer others take than {OURS}\n{machine(any_row(runs))}", fontsize=11)
    return figure


def any_row(runs: dict[str, Run]) -> Row:
    return next(rows[0] for run in runs.values() for rows in run.values())


def counted(runs: dict[str, Run]) -> dict[str, list[Row]]:
    """Rows of ours, per suite, of the cases whose work is counted."""
    return {suite: [r[0] for r in run.values() if r[0]["gflops"] != "nan"] for suite, run in runs.items()}


def roofline_figure(ours: dict[str, list[Row]]) -> Figure:
    """Every counted case of ours under the ceilings that were measured in the same run (their medians)."""
    figure = Figure(figsize=(11, 6.2), layout="constrained")
    axes = figure.subplots()
    rows = [row for suite_rows in ours.values() for row in suite_rows]
    intensities = []
    for suite, suite_rows in ours.items():
        for marker, row in zip(cycle(MARKERS), suite_rows):
            rate = float(row["gflops"])
            intensities.append(intensity := rate / float(row["gb_per_s"]))
            axes.plot(intensity, rate, marker, color=SUITES[suite], markersize=8, alpha=0.8, label=row["case"])
    ceilings(axes, rows, min(intensities) / 2, max(intensities) * 2)
    axes.set(xscale="log", yscale="log", ylabel="GFLOP/s of live work")
    axes.set_xlabel(f"live floating-point operations / byte that must be moved{why_above(rows)}")
    axes.grid(which="both", color="0.92")
    axes.set_axisbelow(True)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(plain_number))
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=8.5, frameon=False)
    figure.suptitle(f"{OURS} and the measured ceilings\n{machine(rows[0])}", fontsize=11)
    return figure


def ceilings(axes: Axes, rows: list[Row], left: float, right: float) -> None:
    """The slope of the copy, and a roof for every dtype: the matrix product of its numbers."""
    byte_rate = median([float(row["copy_gb_per_s"]) for row in rows])
    place = {"textcoords": "offset points", "fontsize": 9}
    axes.annotate(f"copy: {byte_rate:.0f} GB/s", (left, left * byte_rate), xytext=(24, -4), **place)
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        flop_rate = median([float(row["matmul_gflops"]) for row in rows if row["dtype"] == dtype])
        xs = [left, min(max(flop_rate / byte_rate, left), right), right]
        axes.plot(xs, [min(x * byte_rate, flop_rate) for x in xs], color="black", linewidth=1.5)
        by = " or ".join(sorted({row["matmul_by"] for row in rows if row["dtype"] == dtype}))
        roof = f"matmul {dtype}, the faster library's ({by}): {flop_rate:.0f} GFLOP/s"
        axes.annotate(roof, (right, flop_rate), xytext=(-4, -14), ha="right", **place)
    axes.set_xlim(left, right)


def why_above(rows: list[Row]) -> str:
    """Where points lie above the roof, a line that says why they may; else nothing."""
    above = sum(float(row["gflops"]) > float(row["matmul_gflops"]) for row in rows)
    if not above:
        return ""
    path = rows[0]["mkl"]
    slower = f"\nMKL runs its code for {path} here" if path and "AVX" not in path else ""
    return f"\n{above} of {len(rows)} points lie above the roof: it is a library's, not the processor's peak{slower}"


def median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def draw(folder: Path) -> None:
    """Writes speedup.png, and roofline.png where work is counted, beside the results they show; a GPU has its own."""
    for suffix, runs in last_runs(folder).items():
        figures = {"speedup": speedup_figure(runs)}
        if any((ours := counted(runs)).values()):
            figures["roofline"] = roofline_figure(ours)
        for name, figure in figures.items():
            path = folder / f"{name}{suffix}.png"
            figure.savefig(path, dpi=110)
            print(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="folder of CSV files; default: every processor's")
    out = parser.parse_args().out
    for folder in [out] if out else [RESULTS / name for name in by_processor(RESULTS)]:
        draw(folder)


if __name__ == "__main__":
    main()
