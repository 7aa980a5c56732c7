"""`python -m benchmarks.run`: checks every case against the reference, then times it beside its peers."""

from __future__ import annotations

import argparse
import datetime
import gc
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from vlae_fast import backends
from vlae_fast.backends import cpu

from . import gpu, measure
from .cases import CPU_SUITES, SUITES, torch_dtype
from .gpu import Call
from .measure import commit, copy, device_name, interleaved, matmuls, mkl_path, quantile, warmed_up
from .records import OURS, RESULTS, Row, append, check_columns, folder_of, share
from .suites import Contest, Setup, prepare

GPU_MINUTES = 7.0  # after these no case is started; a minute later the one in progress is given up


def timed(contenders: dict[str, Call], device: torch.device, *, quick: bool) -> dict[str, list[float]]:
    if device.type == "cuda":
        return interleaved(contenders, 3, slice_s=0.1, timer=gpu.event_times)
    return interleaved(contenders, 1 if quick else 3)


def ceilings(device: torch.device, dtype: torch.dtype) -> str:
    """A line on the machine's ceilings, before anything else is timed on it: a look at whether it is in order."""
    known = {f"GFLOP/s matmul by {by}": ceiling for by, ceiling in matmuls(device, dtype).items()}
    known["GB/s copy"] = copy(device)
    warmed_up(calls := {name: ceiling.call for name, ceiling in known.items()})
    times = timed(calls, device, quick=True)
    rates = ", ".join(f"{c.work / quantile(times[name], 0.5) / 1e9:,.0f} {name}" for name, c in known.items())
    return f"{device_name(device)}: {rates} ({dtype})"


def time_case(suite: str, case: Any, contest: Contest, setup: Setup, *, quick: bool = False) -> list[Row]:
    """Rows of a contest: ours first, then the peers; ``speedup`` is how much longer a contender takes than ours.

    A peer that fails is left out, and said.
    """
    on_gpu = setup.device.type == "cuda"
    contenders = {OURS: contest.ours, **contest.peers}
    failed = warmed_up(contenders, 3 if setup.on_gpu else 1)
    for name, error in failed.items():
        if name == OURS:
            raise RuntimeError(f"{case.name}: {error}")
        print(f"{case.name}: {name} is left out: {error}", flush=True)
        del contenders[name]
    roofs = {**matmuls(setup.device, torch_dtype(case.dtype)), "copy": copy(setup.device)}
    warmed_up(calls := {name: ceiling.call for name, ceiling in roofs.items()})
    times = timed({**calls, **contenders}, setup.device, quick=quick)
    for peer in contest.scale.keys() & times.keys():
        times[peer] = [t * contest.scale[peer] for t in times[peer]]
    rates = {name: ceiling.work / quantile(times[name], 0.5) for name, ceiling in roofs.items()}
    byte_rate = rates.pop("copy")
    matmul_by, flop_rate = max(rates.items(), key=lambda rate: rate[1])
    rounding = {"tf32": " with TF32", "float32": " without TF32"}.get(case.dtype, "") if setup.on_gpu else ""
    rows = []
    for contender, call in contenders.items():
        p50 = quantile(times[contender], 0.5)
        rows.append(
            {
                "suite": suite,
                "case": case.name,
                "contender": contender if contender == OURS else contender + rounding,
                "backend": contest.backend if contender == OURS else "",
                "dtype": case.dtype,
                **{f"p{q}_ms": f"{1e3 * quantile(times[contender], q / 100):.4f}" for q in (20, 50, 80)},
                "speedup": f"{p50 / quantile(times[OURS], 0.5):.2f}",
                "peak_mb": f"{(gpu if on_gpu else measure).peak_mb(call):.1f}",
                "gflops": f"{case.flops / p50 / 1e9:.3g}",
                "matmul_gflops": f"{flop_rate / 1e9:.1f}",
                "matmul_by": matmul_by,
                "fraction_of_matmul": f"{case.flops / p50 / flop_rate:.3g}",
                "gb_per_s": f"{case.bytes / p50 / 1e9:.3g}",
                "copy_gb_per_s": f"{byte_rate / 1e9:.1f}",
                "fraction_of_copy": f"{case.bytes / p50 / byte_rate:.3g}",
            }
        )
    return rows


def describe(rows: list[Row], checked: str) -> str:
    ours, *peers = rows
    against = ", ".join(f"{row['speedup']}x {row['contender']}" for row in peers)
    ceiling = f"{ours['matmul_gflops']} GFLOP/s of {ours['matmul_by']}'s matmul"
    work = f"{share(ours)} of {ceiling} in live work" if share(ours) else ceiling
    memory = f"{ours['gb_per_s']} GB/s (copy {ours['copy_gb_per_s']}), peak {ours['peak_mb']} MB"
    return f"{ours['case']} [{ours['backend']}]: {work}; {ours['p50_ms']} ms, {memory}; {against}; {checked}"


class OutOfTime(BaseException):
    """The run has no time left for the case in progress. No Exception: a peer's failure is forgiven, this is not."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raises OutOfTime in what takes longer; infinity is no limit."""

    def give_up(*_: object) -> None:
        raise OutOfTime

    if seconds == float("inf"):
        yield
        return
    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run_case(suite: str, case: Any, setup: Setup, *, quick: bool) -> tuple[list[Row], str]:
    """Rows of a case, and the line that describes them."""
    torch.compiler.reset()  # a peer of many cases would run into the limit of recompilations
    gc.collect()
    if setup.device.type == "cuda":
        torch.cuda.empty_cache()
    with gpu.precision(case.dtype):
        contest = prepare(case, setup)
        rows = time_case(suite, case, contest, setup, quick=quick)
    return rows, describe(rows, contest.checked)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", choices=[*SUITES, "all"], default="all", help="all: those of a CPU")
    parser.add_argument("--case", default="", help="only cases whose name contains this")
    parser.add_argument("--backend", choices=backends.NAMES, default="auto", help="of ours")
    parser.add_argument("--device", type=torch.device, help="default: cuda for the suite gpu, else cpu")
    parser.add_argument("--minutes", type=float, help=f"no case is started after (default: {GPU_MINUTES:g} for gpu)")
    parser.add_argument("--quick", action="store_true", help="few cases, one round; rows go to out/bench")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out of the peers")
    parser.add_argument("--plot", action="store_true", help="then draw the pictures of the results")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    where = "this processor's in benchmarks/results"
    parser.add_argument("--out", type=Path, help=f"folder of the CSV files to append to (default: {where})")
    args = parser.parse_args(arguments)
    on_gpu = args.suite == "gpu"
    args.device = args.device or torch.device("cuda" if on_gpu else "cpu")
    if args.device.type == "cuda" and not torch.cuda.is_available():
        parser.error("the suite gpu needs a CUDA device, and torch sees none")
    args.minutes = args.minutes if args.minutes is not None else GPU_MINUTES if on_gpu else float("inf")
    return args


def about(device: torch.device, threads: int) -> Row:
    """The columns that all rows of a run have in common."""
    isa = next(iter(cpu.isas()), "")
    if device.type == "cuda":
        import triton

        isa = f"sm_{''.join(map(str, torch.cuda.get_device_capability(device)))} triton-{triton.__version__}"
    return {
        "device": device_name(device),
        "isa": isa,
        "threads": str(threads),
        "torch": torch.__version__,
        "mkl": mkl_path() if device.type == "cpu" else "",
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    start = time.monotonic()
    args = parse(arguments)
    if args.plot:
        from .plot import draw  # matplotlib: missed before an hour of timing, not after it
    torch.set_num_threads(args.threads)
    on_gpu = args.suite == "gpu"
    mode = None if args.quick or args.no_compile else "max-autotune" if on_gpu else "default"
    setup = Setup(args.backend, mode, args.device, on_gpu)
    suites = list(CPU_SUITES) if args.suite == "all" else [args.suite]
    machine, done, left_out = about(args.device, args.threads), [], []
    args.out = args.out or (Path("out/bench") if args.quick else RESULTS / folder_of(machine))
    for suite in suites:
        check_columns(args.out / f"{suite}.csv")
    args.out.mkdir(parents=True, exist_ok=True)
    chosen = [(s, c) for s in suites for c in SUITES[s] if args.case in c.name and (c.quick or not args.quick)]
    if on_gpu:
        print(ceilings(args.device, torch.bfloat16), flush=True)
    else:
        print(f"{ceilings(args.device, torch.float32)}; MKL's code is for: {machine['mkl'] or 'no MKL'}", flush=True)
        print(f"every contender may use {args.threads} threads, naive and cached samplers too", flush=True)
    for suite, case in chosen:
        left_s = 60 * args.minutes - (time.monotonic() - start)
        if left_s <= 0:
            left_out.append(f"{case.name}: not started, the time was up")
            continue
        try:
            with at_most(left_s + 60):
                rows, line = run_case(suite, case, setup, quick=args.quick)
        except (Exception, OutOfTime) as error:
            traceback.print_exc()
            left_out.append(f"{case.name}: {type(error).__name__}: {error}".partition("\n")[0])
            continue
        append(args.out / f"{suite}.csv", [{**row, **machine} for row in rows])
        done.append(f"{line} ({time.monotonic() - start:.0f} s)")
        print(done[-1], flush=True)
    if on_gpu:  # once more, below what compilers have printed in between
        print("\n".join(["", *done]))
    print("\n".join(f"left out: {reason}" for reason in left_out), end="\n" if left_out else "")
    if args.plot and done:
        draw(args.out)
    return 1 if left_out else 0


if __name__ == "__main__":
    sys.exit(main())
