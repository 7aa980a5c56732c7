"""`python -m benchmarks.targets`: the calls whose times on an H100 or H200 are asked for, kernel by kernel.

Each is replayed as a CUDA graph; a row says how often a kernel ran in a replay and how long, beside the floor (live
work or bytes at the GPU's rates) and the time asked for, which are estimates: `benchmarks.estimates`.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

import vlae_fast as vf
from vlae_fast import backends
from vlae_fast.models import make_decoder

from .gpu import captured
from .launches import conv, inverse, made
from .tune import milliseconds

BF16, F32 = torch.bfloat16, torch.float32
COLUMNS = "target floor_us asked_us whole_us kernel launches us".split()


def draws(
    batch: int, dtype: torch.dtype, device: str, kind: str = "gated", channels: int = 64, n_layers: int = 3
) -> Callable[[], object]:
    """Draws by the row that ``auto`` takes, below the contract, whose checks of the noise wait for the GPU."""
    torch.manual_seed(0)
    sizes = {"input_dim": 1, "latent_dim": 32, "hidden_dim": channels, "n_layers": n_layers, "image_size": (28, 28)}
    sampler = vf.PixelCNNSampler(make_decoder(kind, **sizes, z_channels=0).to(device, dtype).eval())
    z, noise = (torch.rand(batch, *size, device=device, dtype=dtype) for size in ((32,), (1, 28, 28)))
    namespace = next(row for row in backends.table.TABLE if row.name == sampler.backend).namespace
    context = sampler._context(z, batch)
    return lambda: namespace.pixelcnn_sample(noise, sampler._packed, sampler.plan, context, None, None, 1.0)


def vlae(device: str) -> Callable[[], object]:
    """The inverse of the prior's flow, and draws."""
    prior = vf.VLAE(z_channels=0).to(device).prior
    eps, draw = torch.randn(256, 32, device=device), draws(256, F32, device)
    return torch.no_grad()(lambda: (prior.inverse(eps), draw()))


class Target(NamedTuple):
    """``before``: an estimate of the code that was there first."""

    floor_us: float
    asked_us: float
    make: Callable[[str], Callable[[], object]]  # device -> call
    before: str = ""


def _conv(batch: int, channels: int, size: int, device: str, *, backward: bool = True) -> Callable[[], object]:
    return conv("B", (batch, channels, size, size), 2 * channels, 3, "gate", BF16, device, backward=backward)


def _inverse(dim: int, device: str) -> Callable[[], object]:
    """By the CUDA library, which ``auto`` passes over until it is timed against Triton's."""
    return inverse(100, dim, (512, 512), "relu", False, F32, device, namespace=backends.cuda)


def _made(device: str) -> Callable[[], object]:
    return made(4096, 784, (4096, 4096), BF16, device, cond=False)


def _two_stacks(device: str) -> Callable[[], object]:
    return draws(64, BF16, device, "two-stack", 32, 12)


TARGETS = {
    "conv-128ch-batch128-forward": Target(54, 85, partial(_conv, 128, 128, 32, backward=False), "95-130 us"),
    "conv-128ch-batch128": Target(200, 300, partial(_conv, 128, 128, 32), "400-560 us"),
    "conv-64ch-batch64": Target(30, 40, partial(_conv, 64, 64, 28), "65 us"),
    "made-784-4096-4096-1568-batch4096": Target(411, 600, _made, "780 us"),
    "maf-784-batch100": Target(200, 500, partial(_inverse, 784), "0.5 ms"),
    "maf-3072-batch100": Target(800, 1800, partial(_inverse, 3072), "1.8 ms"),
    "sampler-batch1-bf16": Target(200, 600, partial(draws, 1, BF16), "2.1-3.1 ms"),
    "sampler-batch1-float32": Target(200, 1000, partial(draws, 1, F32), "2.1-3.1 ms"),
    "sampler-batch64-bf16": Target(200, 700, partial(draws, 64, BF16), "2.1-3.1 ms"),
    "sampler-batch4096-bf16": Target(1000, 10240, partial(draws, 4096, BF16), "46-63 ms"),
    "two-stack-12-layers-32ch-batch64": Target(3000, 8000, _two_stacks, "25 ms"),
    "vlae-prior-and-decoder-batch256": Target(1000, 2500, vlae, "4-5.4 ms"),
}


def kernels_of(replay: Callable[[], object]) -> dict[str, tuple[int, float]]:
    """Launches and microseconds of each kernel in a replay."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        replay()
        torch.cuda.synchronize()
    return {event.key: (event.count, event.device_time_total) for event in profiler.key_averages()}


def rows_of(name: str, device: str) -> list[dict[str, object]]:
    """A row for each kernel of a target, the longest first."""
    target = TARGETS[name]
    call = target.make(device)
    told = {
        "target": name,
        "floor_us": target.floor_us,
        "asked_us": target.asked_us,
        "whole_us": f"{1e3 * milliseconds(call, device):.1f}",
    }
    kernels = sorted(kernels_of(captured(call, torch.device(device))).items(), key=lambda item: -item[1][1])
    return [{**told, "kernel": kernel, "launches": n, "us": f"{us:.1f}"} for kernel, (n, us) in kernels]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", choices=TARGETS, action="append", help="default: all")
    parser.add_argument("--out", type=Path, required=True, help="the CSV file that rows join")
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("replays need a CUDA device, and torch sees none")
    left_out = []
    with options.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for name in options.target or TARGETS:
            try:
                rows = rows_of(name, options.device)
            except Exception as error:
                left_out.append(f"left out: {name}: {type(error).__name__}: {error}".partition("\n")[0])
                continue
            writer.writerows(rows)
            file.flush()
            print(*(" ".join(map(str, row.values())) for row in rows), sep="\n", flush=True)
    print(*left_out, sep="\n")
    return 1 if left_out else 0


if __name__ == "__main__":
    sys.exit(main())
