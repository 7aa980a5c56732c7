"""`python -m benchmarks.host_time`: what the Triton row costs the host, and how many kernels a step launches.

No GPU is asked for. ``host_us`` is the time of contract, autograd and launchers: launches are stubbed, up to where
Triton would begin. ``launched_us`` has Triton's part too, up to its driver: kernels are compiled, and not launched.
Rows are added to ``results/host_time.csv``, with the commit and the machine.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

import vlae_fast as vf
from vlae_fast.backends import triton as triton_row
from vlae_fast.kept import plans_anew

from .measure import quantile
from .no_gpu import on_the_host, without_gpu
from .run import about

RESULTS = Path(__file__).parent / "results" / "host_time.csv"
COLUMNS = "call kernels host_us launched_us triton device isa threads torch mkl commit date".split()
BATCHES, CALLS = 20, 50
BF16 = torch.bfloat16


@contextmanager
def stubbed() -> Iterator[list[str]]:
    """Triton's row takes tensors on the CPU, and its launches do nothing but to leave the kernel's name."""
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import JITFunction

    names: list[str] = []

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        names.append(self.fn.__name__)

    with (
        mock.patch.object(JITFunction, "run", run),
        mock.patch.object(InterpretedFunction, "run", run),
        on_the_host(),
        plans_anew(),
    ):
        yield names


def _step(module: nn.Module, x: Tensor, backward: bool) -> Callable[[], object]:
    """A forward pass, or the gradients of x and every parameter."""
    if not backward:
        return torch.no_grad()(lambda: module(x))
    x.requires_grad_()
    grad, wanted = torch.ones_like(module(x)), [x, *module.parameters()]
    return lambda: torch.autograd.grad(module(x), wanted, grad)


def conv(backward: bool = True) -> Callable[[], object]:
    layer = vf.MaskedConv2d("B", 16, 32, 3, activation="gate", backend="triton").to(BF16)
    return _step(layer, torch.ones(1, 16, 4, 4, dtype=BF16).contiguous(memory_format=torch.channels_last), backward)


def linear(backward: bool = True) -> Callable[[], object]:
    degrees = torch.arange(32), torch.arange(64) // 2
    return _step(vf.MaskedLinear(*degrees, activation="relu", backend="triton").to(BF16), _rows(), backward)


def made(backward: bool = True) -> Callable[[], object]:
    return _step(vf.MADE(32, 64, 64, n_hidden=2, backend="triton").to(BF16), _rows(), backward)


def _rows() -> Tensor:
    return torch.ones(8, 32, dtype=BF16)


STEPS: dict[str, Callable[[], Callable[[], object]]] = {
    "masked_conv forward": partial(conv, False),
    "masked_conv forward + backward": conv,
    "masked_linear forward": partial(linear, False),
    "masked_linear forward + backward": linear,
    "made of 3 layers forward": partial(made, False),
    "made of 3 layers forward + backward": made,
}


def kernels_of(name: str) -> list[str]:
    """The kernels that a step launches once the masks are known, in their order."""
    with stubbed() as names:
        step = STEPS[name]()
        step()
        names.clear()
        step()
    return names


def microseconds(step: Callable[[], object]) -> float:
    """Median over batches of calls, of the processor's time: what else the machine does is no part of it."""
    for _ in range(CALLS):
        step()
    times = []
    for _ in range(BATCHES):
        start = time.process_time()
        for _ in range(CALLS):
            step()
        times.append((time.process_time() - start) / CALLS)
    return 1e6 * quantile(times, 0.5)


def row_of(name: str) -> dict[str, object]:
    import triton

    with stubbed():
        ours = microseconds(STEPS[name]())
    told = {"call": name, "kernels": len(kernels_of(name)), "host_us": f"{ours:.0f}", "launched_us": ""}
    if not triton_row.INTERPRETED:  # else there is no launcher of Triton's
        with without_gpu():
            told["launched_us"] = f"{microseconds(STEPS[name]()):.0f}"
    return told | {"triton": triton.__version__} | about(torch.device("cpu"), 1)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS, help="file that rows are added to")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows, new = [row_of(name) for name in STEPS], not options.out.exists()
    with options.out.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if new:
            writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        times = f"{row['host_us']:>6} us, with Triton's launcher {row['launched_us']:>6} us"
        print(f"{row['call']:36} {row['kernels']:3} kernels {times}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
