"""`python -m benchmarks.tune`: tries the listed configurations of every kernel on this GPU, and keeps what is faster.

Tuned are the entries of kernels/configs.json that the launches of benchmarks/launches.py look up: kernel, dtype and
size class, never the batch. A winner is written under the device's name and under its architecture, for devices that
nobody has tuned; the default comes after both. bfloat16 is tuned for float16 too; float32 under PyTorch's own settings
(convolutions may round to TF32). A block size along K changes the order of additions: after tuning a result may have
other last bits, which again are the same every time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from triton.runtime.jit import JITFunction
from vlae_fast.kernels import launch
from vlae_fast.kernels.launch import Config

from vlae_fast.kept import plans_anew

from .candidates import CANDIDATES
from .launches import LAUNCHES, Results
from .measure import quantile, wall_times

GAIN = 1.02  # of a case's time: less is noise
TUNED_FOR = {torch.bfloat16: ("bfloat16", "float16"), torch.float32: ("float32",)}
TOLERANCE = {torch.bfloat16: 2e-2, torch.float32: 2e-3}  # norm of the difference to the untuned results
SETTINGS = {"enable_fp_fusion"}  # `launch.config` adds these to an entry

Entry = tuple[str, torch.dtype, str]  # kernel, dtype, size class
Choice = Mapping[Entry, Config]


@contextmanager
def lookups(tried: Choice) -> Iterator[dict[Entry, Config]]:
    """The entries that kernels ask for, while it lasts; those in ``tried`` are answered in place of the table."""
    seen: dict[Entry, Config] = {}
    of_table = launch._config

    def config(kernel: str, dtype: torch.dtype, sizes: tuple[int, ...], device: torch.device) -> Config:
        entry = (kernel, dtype, launch.size_class(*sizes))
        seen[entry] = {**of_table(kernel, dtype, sizes, device), **tried.get(entry, {})}
        return seen[entry]

    with mock.patch.object(launch, "_config", config), plans_anew():
        yield seen


@contextmanager
def compiled_code() -> Iterator[list[tuple[Any, ...]]]:
    """Machine code and launch of every kernel that runs while it lasts; nothing of one that is interpreted."""
    run, found = JITFunction.run, []

    def recorded(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernel = run(self, *args, grid=grid, warmup=warmup, **options)
        code = hashlib.sha256(kernel.asm["cubin"]).hexdigest()
        found.append((code, grid, kernel.metadata.num_warps, kernel.metadata.shared))
        return kernel

    with mock.patch.object(JITFunction, "run", recorded), plans_anew():  # else binaries that are kept are launched
        yield found


def milliseconds(call: Callable[[], object], device: str) -> float:
    """Median time of a call; on a GPU that of its kernels, without what the host needs to launch them."""
    if device == "cpu":
        return 1e3 * quantile(wall_times(call, 0.0), 0.5)
    return triton.testing.do_bench_cudagraph(call, rep=20, return_mode="median")


def failure(case: str, dtype: torch.dtype, device: str, tried: Choice) -> str | None:
    """Why a case does not run so, or None. Kernels compiled here serve other processes too: they share the cache."""
    try:
        with lookups(tried):
            LAUNCHES[case](dtype, device)()
        if device != "cpu":
            torch.cuda.synchronize()
    except Exception as error:
        return f"{type(error).__name__}: {error}".partition("\n")[0][:120]
    return None


def agree(results: Results, expected: Results, dtype: torch.dtype) -> bool:
    """True where results differ from the expected ones by rounding only."""
    for a, b in zip(results, expected, strict=True):
        if (a is None) != (b is None):
            return False
        if a is not None and b is not None and not (a.double() - b).norm() <= TOLERANCE[dtype] * b.double().norm():
            return False
    return True


def name_of(entry: Entry) -> str:
    kernel, dtype, sizes = entry
    return f"{kernel}/{str(dtype).removeprefix('torch.')}/{sizes}"


def write(path: Path, device: str, entries: Mapping[str, Config]) -> None:
    """Adds entries to a device's part of the table, at one stroke; a line each."""
    table = json.loads(path.read_text(encoding="utf-8"))
    table.setdefault(device, {}).update(entries)
    parts = []
    for name, part in table.items():
        lines = ",\n".join(f"    {json.dumps(key)}: {json.dumps(config)}" for key, config in part.items())
        parts.append(f"  {json.dumps(name)}: {{\n{lines}\n  }}")
    new = path.with_suffix(".new")
    new.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")
    os.replace(new, path)


@dataclass
class Tuner:
    """Choices so far; ``timer(call, device)`` in milliseconds; ``pool`` compiles and tries candidates first."""

    device: str
    table: Path
    timer: Callable[[Callable[[], object], str], float] = milliseconds
    pool: ProcessPoolExecutor | None = None
    chosen: dict[Entry, Config] = field(default_factory=dict)

    def tune(self, case: str, entry: Entry, base: Config) -> str:
        """Chooses an entry's configuration by the time of a case, writes it down, and says what was found."""
        kernel, dtype, _ = entry
        call = LAUNCHES[case](dtype, self.device)
        with lookups(self.chosen), compiled_code() as code:
            expected = call()
        with lookups(self.chosen):
            before = self.timer(call, self.device)
        best, best_ms, left_out, timed = base, before, "", [code]
        tries = [{**base, **candidate} for candidate in CANDIDATES[kernel]]
        for config, reason in zip(tries, self.failures(case, entry, tries), strict=True):
            with lookups({**self.chosen, entry: config}):
                if reason is None:
                    with compiled_code() as code:
                        results = call()
                    if not agree(results, expected, dtype):
                        reason = "wrong results"
                    elif code and code in timed:
                        reason = "compiles to the code of one before it"
                    timed.append(code)
                if reason is not None:
                    left_out += f"\n  left out {config}: {reason}"
                elif (ms := self.timer(call, self.device)) < best_ms:
                    best, best_ms = config, ms
        if best_ms * GAIN > before:
            best, best_ms = base, before
        self.chosen[entry] = best
        if best is not base:
            self.keep(entry, best)
        told = f"{'kept' if best is base else 'now'} {best}"
        return f"{name_of(entry)} in {case}: {before:.4f} -> {best_ms:.4f} ms, {told}{left_out}"

    def failures(self, case: str, entry: Entry, tries: list[Config]) -> list[str | None]:
        choices = [{**self.chosen, entry: config} for config in tries]
        if self.pool is not None:
            try:
                jobs = [self.pool.submit(failure, case, entry[1], self.device, choice) for choice in choices]
                return [job.result() for job in jobs]
            except BrokenProcessPool:
                print("a worker died: candidates are compiled one after another from here on", flush=True)
                self.pool = None
        return [failure(case, entry[1], self.device, choice) for choice in choices]

    def keep(self, entry: Entry, config: Config) -> None:
        kernel, dtype, sizes = entry
        config = {key: value for key, value in config.items() if key not in SETTINGS}
        entries = {f"{kernel}/{other}/{sizes}": config for other in TUNED_FOR[dtype]}
        for name in launch.device_names(torch.device(self.device)):
            write(self.table, name, entries)


def run(tuner: Tuner, cases: list[str], until: float) -> list[str]:
    """Tunes every entry of the cases once; returns what was left out for want of time or of candidates."""
    left_out = []
    for dtype in TUNED_FOR:
        for case in cases:
            with lookups(tuner.chosen) as seen:
                reason = failure(case, dtype, tuner.device, {})
            if reason is not None:
                left_out.append(f"{case} in {dtype}: {reason}")
                continue
            for entry, base in seen.items():
                if entry in tuner.chosen:
                    continue
                if entry[0] not in CANDIDATES:
                    left_out.append(f"{name_of(entry)}: no candidates are listed")
                elif time.monotonic() > until:
                    left_out.append(f"{name_of(entry)}: not started, the time was up")
                else:
                    print(tuner.tune(case, entry, base), flush=True)
    return list(dict.fromkeys(left_out))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=LAUNCHES, action="append", help="default: all")
    parser.add_argument("--minutes", type=float, default=8.0, help="no entry is started after")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a rehearsal in the interpreter")
    parser.add_argument(
        "--jobs", type=int, default=min(12, os.cpu_count() or 1), help="processes that compile; 0: none"
    )
    parser.add_argument("--table", type=Path, default=launch.TABLE, help="the file that winners are written to")
    options = parser.parse_args(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("tuning needs a CUDA device, and torch sees none")
    until = time.monotonic() + 60 * options.minutes
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(options.jobs, context) if options.jobs else None
    left_out = run(Tuner(options.device, options.table, pool=pool), list(options.case or LAUNCHES), until)
    print("\n".join(f"left out: {reason}" for reason in left_out), end="\n" if left_out else "")
    if pool is not None:
        pool.shutdown(cancel_futures=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
