"""`python -m benchmarks.scaling`: training and sampling by two processes of a thread each, beside one of two threads.

Each way runs in processes of its own, one way after the other; its figures are medians over epochs, or over samples,
without the first. Before anything is timed, the two ways are checked against each other: the losses of an epoch to
rounding, the images of a folder byte for byte. Two samplers in two threads of Python are timed beside one.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch

import vlae_fast as vf
from vlae_fast import data, processes, training
from vlae_fast.generation import draw_shards

from .records import ABOUT, RESULTS
from .run import about

WAYS = {"1 process, 1 thread": (1, 1), "1 process, 2 threads": (1, 2), "2 processes, 1 thread each": (2, 1)}
COLUMNS = ("work", "way", "p50_s", "least_s", "most_s", "per_second", "of_two_threads", *ABOUT)


def images(n: int) -> data.Images:
    """Pictures of 28x28 with light and dark regions: the work does not depend on what they show."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(n + 128, 1, 7, 7, generator=generator) < 0.3
    grey = (coarse * 255).to(torch.uint8).repeat_interleave(4, 2).repeat_interleave(4, 3)
    return data.Images("regions", grey[:n], grey[n : n + 64], grey[n + 64 :], f"{n}/64/64")


def model() -> vf.VLAE:
    torch.manual_seed(0)
    return vf.VLAE()


def worker(folder: Path, threads: int, n_train: int, n_samples: int, repeats: int) -> dict[str, Any]:
    """Seconds of epochs and of samples, in one of the processes of a way."""
    torch.set_num_threads(threads)
    training.keep_freed_memory()
    subject = model()
    history = training.train(subject, images(n_train), epochs=repeats + 1, out_dir=folder, progress=False)
    sampled = [
        draw_shards(model(), folder / f"images-{i}", n_samples, per_shard=math.ceil(n_samples / 8)).seconds
        for i in range(repeats + 1)
    ]
    found = {"train": [row["seconds"] for row in history], "sample": sampled, "loss": [row["loss"] for row in history]}
    if (processes.count(), threads) == (1, 2):
        found["python threads"] = [in_threads(2, n_samples) / in_threads(1, n_samples) for _ in range(repeats)]
    return found


def in_threads(count: int, n: int) -> float:
    """Images a second of so many samplers at once, each in a thread of Python; kernels have one thread each."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    samplers = [model().sampler() for _ in range(count)]
    z, noise = torch.zeros(16, 32), torch.rand(16, 1, 28, 28)

    def draw(sampler: Any) -> None:
        torch.set_num_threads(1)  # OpenMP counts for each thread of Python
        for _ in range(max(1, n // 16)):
            sampler.sample(z, noise)

    workers = [threading.Thread(target=draw, args=(sampler,)) for sampler in samplers]
    start = time.perf_counter()
    for one in workers:
        one.start()
    for one in workers:
        one.join()
    torch.set_num_threads(before)
    return count * max(1, n // 16) * 16 / (time.perf_counter() - start)


def run_way(way: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """What `worker` gives in the first process of a way."""
    count, threads = WAYS[way]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["--worker", folder, "--threads", threads, "--train", args.train, "--samples", args.samples]
    command = [sys.executable, "-m", "benchmarks.scaling", *map(str, words), "--repeats", str(args.repeats)]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    started = []
    for rank in range(count):
        env = os.environ | {"OMP_NUM_THREADS": str(threads)} | (place | {"RANK": str(rank)} if count > 1 else {})
        started.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True))
    outputs = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise RuntimeError(f"{way}: a process ended with {[process.returncode for process in started]}")
    found: dict[str, Any] = json.loads(outputs[0].splitlines()[-1])
    return found


def check(found: dict[str, dict[str, Any]], folder: Path) -> None:
    """RuntimeError where two processes have other losses or other images than one."""
    one, two = (found[way] for way in ("1 process, 2 threads", "2 processes, 1 thread each"))
    if not all(math.isclose(a, b, rel_tol=1e-3) for a, b in zip(one["loss"], two["loss"], strict=True)):
        raise RuntimeError(f"losses of two processes must be those of one, got {two['loss']} and {one['loss']}")
    for path in sorted((folder / "1-2" / "images-0").iterdir()):
        if path.read_bytes() != (folder / "2-1" / "images-0" / path.name).read_bytes():
            raise RuntimeError(f"images of two processes must be those of one, got another {path.name}")


def rows_of(found: dict[str, dict[str, Any]], args: argparse.Namespace) -> list[dict[str, str]]:
    rows, machine = [], about(torch.device("cpu"), 2)
    for work, amount in (("train", args.train), ("sample", args.samples)):
        medians = {way: statistics.median(result[work][1:]) for way, result in found.items()}
        for way, result in found.items():
            times, p50 = result[work][1:], medians[way]
            ratio = medians["1 process, 2 threads"] / p50
            figures = (f"{p50:.3f}", f"{min(times):.3f}", f"{max(times):.3f}", f"{amount / p50:.1f}", f"{ratio:.2f}")
            rows.append(dict(zip(COLUMNS[:7], (work, way, *figures), strict=True)) | machine)
    ratio = statistics.median(found["1 process, 2 threads"]["python threads"])
    rows.append(
        dict.fromkeys(COLUMNS, "")
        | {"work": "2 samplers in Python threads, of 1", "per_second": f"{ratio:.2f}x"}
        | machine
    )
    return rows


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=640, help="training images of an epoch")
    parser.add_argument("--samples", type=int, default=240, help="images that are drawn")
    parser.add_argument("--repeats", type=int, default=2, help="epochs and samples that are timed")
    parser.add_argument("--out", type=Path, default=RESULTS / "scaling.csv", help="file that rows are added to")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker is not None:
        print(json.dumps(worker(args.worker, args.threads, args.train, args.samples, args.repeats)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        ways = {way: Path(folder) / "-".join(map(str, numbers)) for way, numbers in WAYS.items()}
        found = {way: run_way(way, place, args) for way, place in ways.items()}
        check(found, Path(folder))
    rows, new = rows_of(found, args), not args.out.exists()
    with args.out.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if new:
            writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print(
            f"{row['work']:34} {row['way']:28} {row['p50_s']:>8} s {row['per_second']:>8}/s {row['of_two_threads']:>5}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
