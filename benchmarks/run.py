"""`python -m benchmarks.run`: checks every case against the reference, then times it beside its peers."""

from __future__ import annotations

import argparse
import csv
import datetime
from pathlib import Path
from typing import Any

import torch

from vlae_fast import native

from .cases import SUITES
from .measure import SGEMM_FLOPS, commit, cpu_name, interleaved, quantile, sgemm
from .suites import Contest, prepare

RESULTS = Path(__file__).parent / "results"
COLUMNS = (
    "suite case contender backend dtype p20_ms p50_ms p80_ms gflops sgemm_gflops fraction_of_sgemm speedup "
    "device isa threads torch commit date"
).split()
OURS = "vlae_fast"


def time_case(suite: str, name: str, contest: Contest, rounds: int) -> list[dict[str, object]]:
    """Rows of a contest: ours first, then the peers; ``speedup`` is how much longer a contender takes than ours."""
    times = interleaved({OURS: contest.ours, "sgemm": sgemm(), **contest.peers}, rounds)
    for peer, scale in contest.scale.items():
        times[peer] = [t * scale for t in times[peer]]
    ceiling, ours = SGEMM_FLOPS / quantile(times["sgemm"], 0.5), quantile(times[OURS], 0.5)
    rows = []
    for contender in (OURS, *contest.peers):
        p50 = quantile(times[contender], 0.5)
        rows.append(
            {
                "suite": suite,
                "case": name,
                "contender": contender,
                "backend": contest.backend if contender == OURS else "",
                "dtype": "float32",
                **{f"p{q}_ms": f"{1e3 * quantile(times[contender], q / 100):.3f}" for q in (20, 50, 80)},
                "gflops": f"{contest.flops / p50 / 1e9:.1f}",
                "sgemm_gflops": f"{ceiling / 1e9:.1f}",
                "fraction_of_sgemm": f"{contest.flops / p50 / ceiling:.3f}",
                "speedup": f"{p50 / ours:.2f}",
            }
        )
    return rows


def describe(rows: list[dict[str, Any]], checked: str) -> str:
    ours, *peers = rows
    against = ", ".join(f"{row['speedup']}x {row['contender']}" for row in peers)
    live = f"{ours['gflops']} GFLOP/s of live work (sgemm {ours['sgemm_gflops']})"
    return f"{ours['case']} [{ours['backend']}]: {ours['p50_ms']} ms, {live}; {against}; {checked}"


def append(path: Path, rows: list[dict[str, object]]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if new:
            writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", choices=[*SUITES, "all"], default="all")
    parser.add_argument("--backend", default="auto", help="backend of ours; see `python -m vlae_fast info`")
    parser.add_argument("--quick", action="store_true", help="few cases, one round; rows go to out/bench")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out of the peers")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="folder of the CSV files that rows are appended to")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    about = {
        "device": cpu_name(),
        "isa": next(iter(native.isas()), ""),
        "threads": args.threads,
        "torch": torch.__version__,
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
    }
    out = args.out or (Path("out/bench") if args.quick else RESULTS)
    out.mkdir(parents=True, exist_ok=True)
    for suite in SUITES if args.suite == "all" else [args.suite]:
        for case in SUITES[suite]:
            if case.quick or not args.quick:
                torch.compiler.reset()  # a peer of many cases would run into the limit of recompilations
                contest = prepare(case, args.backend, not (args.quick or args.no_compile))
                rows = time_case(suite, case.name, contest, 1 if args.quick else 3)
                print(describe(rows, contest.checked), flush=True)
                append(out / f"{suite}.csv", [{**row, **about} for row in rows])


if __name__ == "__main__":
    main()
