"""`python -m benchmarks.run`: checks every case against the reference, then times it beside its peers."""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from vlae_fast import backends, native

from .cases import SUITES
from .measure import COPY_BYTES, SGEMM_FLOPS, commit, copy, cpu_name, interleaved, peak_mb, quantile, sgemm
from .records import OURS, RESULTS, Row, append, check_columns
from .suites import Contest, Setup, prepare


def time_case(suite: str, case: Any, contest: Contest, setup: Setup, rounds: int) -> list[Row]:
    """Rows of a contest: ours first, then the peers; ``speedup`` is how much longer a contender takes than ours."""
    contenders = {OURS: contest.ours, **contest.peers}
    times = interleaved({"sgemm": sgemm(setup.device), "copy": copy(setup.device), **contenders}, rounds)
    for peer, scale in contest.scale.items():
        times[peer] = [t * scale for t in times[peer]]
    flop_rate, byte_rate = (w / quantile(times[c], 0.5) for c, w in (("sgemm", SGEMM_FLOPS), ("copy", COPY_BYTES)))
    rows = []
    for contender, call in contenders.items():
        p50 = quantile(times[contender], 0.5)
        rows.append(
            {
                "suite": suite,
                "case": case.name,
                "contender": contender,
                "backend": contest.backend if contender == OURS else "",
                "dtype": "float32",
                **{f"p{q}_ms": f"{1e3 * quantile(times[contender], q / 100):.3f}" for q in (20, 50, 80)},
                "speedup": f"{p50 / quantile(times[OURS], 0.5):.2f}",
                "peak_mb": f"{peak_mb(call):.1f}",
                "gflops": f"{case.flops / p50 / 1e9:.3g}",
                "sgemm_gflops": f"{flop_rate / 1e9:.1f}",
                "fraction_of_sgemm": f"{case.flops / p50 / flop_rate:.3g}",
                "gb_per_s": f"{case.bytes / p50 / 1e9:.3g}",
                "copy_gb_per_s": f"{byte_rate / 1e9:.1f}",
                "fraction_of_copy": f"{case.bytes / p50 / byte_rate:.3g}",
            }
        )
    return rows


def describe(rows: list[Row], checked: str) -> str:
    ours, *peers = rows
    against = ", ".join(f"{row['speedup']}x {row['contender']}" for row in peers)
    work = f"{ours['gflops']} GFLOP/s of live work (sgemm {ours['sgemm_gflops']})"
    memory = f"{ours['gb_per_s']} GB/s (copy {ours['copy_gb_per_s']}), peak {ours['peak_mb']} MB"
    return f"{ours['case']} [{ours['backend']}]: {ours['p50_ms']} ms, {work}, {memory}; {against}; {checked}"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", choices=[*SUITES, "all"], default="all")
    parser.add_argument("--case", default="", help="only cases whose name contains this")
    parser.add_argument("--backend", choices=backends.NAMES, default="auto", help="of ours")
    parser.add_argument("--quick", action="store_true", help="few cases, one round; rows go to out/bench")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out of the peers")
    parser.add_argument("--plot", action="store_true", help="then draw the pictures of the results")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="folder of the CSV files that rows are appended to")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse(arguments)
    if args.plot:
        from .plot import draw  # matplotlib: missed before an hour of timing, not after it
    torch.set_num_threads(args.threads)
    setup = Setup(args.backend, compiled=not (args.quick or args.no_compile))
    about = {
        "device": cpu_name(),
        "isa": next(iter(native.isas()), ""),
        "threads": str(args.threads),
        "torch": torch.__version__,
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
    }
    out = args.out or (Path("out/bench") if args.quick else RESULTS)
    out.mkdir(parents=True, exist_ok=True)
    suites = list(SUITES) if args.suite == "all" else [args.suite]
    for suite in suites:
        check_columns(out / f"{suite}.csv")
    for suite in suites:
        for case in SUITES[suite]:
            if args.case in case.name and (case.quick or not args.quick):
                torch.compiler.reset()  # a peer of many cases would run into the limit of recompilations
                contest = prepare(case, setup)
                rows = time_case(suite, case, contest, setup, 1 if args.quick else 3)
                print(describe(rows, contest.checked), flush=True)
                append(out / f"{suite}.csv", [{**row, **about} for row in rows])
    if args.plot:
        draw(out)


if __name__ == "__main__":
    main()
