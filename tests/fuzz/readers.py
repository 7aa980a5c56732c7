"""Fuzzes what reads files of strangers: `python readers.py --seconds 60`, the time of all readers together.

A reader may raise ValueError or OSError and nothing else, in bounded memory. Each runs in a process of its own, guided
by coverage where atheris is installed, else by chance. An input that fails is printed, and kept in the folder --keep; a
file of that folder runs again by `--reader NAME --input FILE`. Exit status 1: an input failed.
"""

from __future__ import annotations

import argparse
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

try:
    import atheris
except ImportError:
    atheris = None

if atheris is not None:
    with atheris.instrument_imports(include=["vlae_fast.data", "vlae_fast.checkpoint", "vlae_fast.codec"]):
        pass

from cases.file_readers import READERS, Reader, try_input
from cases.mutated import mutated_bytes

MOST_MEMORY = 1 << 30  # beside what a process has at its start
MOST_BYTES = 1 << 16  # of an input: rules of size have tests of their own
START = 6  # seconds that a process takes to import torch on a busy machine, and does not fuzz


def by_chance(reader: Reader, seconds: float, keep: Path) -> None:
    """Mutations of what was valid, and of what mutations gave."""
    rng, end, tried = random.Random(time.time_ns()), time.monotonic() + seconds, 0
    pool = list(reader.valid)
    while time.monotonic() < end:
        data = mutated_bytes(rng.choice(pool), rng)[:MOST_BYTES]
        try_input(reader, data, keep)
        pool = [*pool, data][-64:] if rng.random() < 0.1 else pool
        pool[: len(reader.valid)] = reader.valid
        tried += 1
    print(f"fuzz: {reader.name}: {tried:,} inputs by chance", flush=True)


def by_coverage(reader: Reader, seconds: float, keep: Path, corpus: Path) -> None:
    """libFuzzer, which ends the process: with its status 77 where an input failed."""
    for i, data in enumerate(reader.valid):
        (corpus / str(i)).write_bytes(data)
    options = [f"-max_total_time={max(1, round(seconds))}", f"-max_len={MOST_BYTES}", "-timeout=20", "-rss_limit_mb=0"]
    options += ["-print_final_stats=1", f"-artifact_prefix={corpus}/", str(corpus)]

    def mutate(data: bytes, size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        return mutated_bytes(data, rng)[:size] if rng.random() < 0.3 else atheris.Mutate(data, size)

    atheris.Setup([sys.argv[0], *options], lambda data: try_input(reader, data, keep), custom_mutator=mutate)
    atheris.Fuzz()


def fuzz_one(reader: Reader, seconds: float, keep: Path) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MOST_MEMORY, -1))
    with tempfile.TemporaryDirectory() as folder:
        reader.prepare(Path(folder, "data"))
        for data in reader.valid:
            reader.read(data)  # a reader that takes nothing would pass whatever happens
        if atheris is None:
            by_chance(reader, seconds, keep)
        else:
            Path(folder, "corpus").mkdir()
            by_coverage(reader, seconds, keep, Path(folder, "corpus"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--reader", choices=[reader.name for reader in READERS])
    parser.add_argument("--input", type=Path)
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz"))
    options = parser.parse_args()
    if options.reader:
        reader = next(reader for reader in READERS if reader.name == options.reader)
        if options.input:
            with tempfile.TemporaryDirectory() as folder:
                reader.prepare(Path(folder, "data"))
                try_input(reader, options.input.read_bytes(), options.keep)
        else:
            fuzz_one(reader, options.seconds, options.keep)
        return 0
    share, failed = max(1.0, options.seconds / len(READERS) - START), []
    for reader in READERS:
        command = [
            sys.executable,
            __file__,
            "--reader",
            reader.name,
            "--seconds",
            str(share),
            "--keep",
            str(options.keep),
        ]
        done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        said = [line for line in done.stdout.splitlines() if line.startswith(("fuzz:", "stat::number_of"))]
        print(f"{reader.name}: {'failed' if done.returncode else 'held'}; {'; '.join(said)}", flush=True)
        if done.returncode:
            print(done.stdout)
            failed.append(reader.name)
    print(f"fuzz: {len(READERS)} readers, {len(failed)} failed{': ' * bool(failed)}{', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
