"""`python -m benchmarks.small_calls`: a small call of every op by every row that a GPU has, forward and backward.

Nothing is compared and no test runner is in between: this is what compute-sanitizer is put on, and the first thing to
run on a GPU nobody has tried. New memory stays as it is, so that a read of what nobody wrote can be seen (initcheck).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

import vlae_fast as vf
from vlae_fast import backends
from vlae_fast.testing import Case, conv_case, linear_case, made_case, made_layers_case, run

SMALL = [
    conv_case("B", (2, 32, 9, 7), 64, 3, activation="gate", cond="vector"),
    conv_case("A", (2, 3, 6, 5), 12, 5, activation="relu", image_channels=3, cond="map"),
    linear_case(5, 33, 65, activation="elu"),
    linear_case(7, 16, 20, adjacency=True, activation="tanh"),
    made_layers_case(5, 9, (33, 40), activation="elu", cond=True),
    made_case(3, 9, (32, 32)),
    made_case(3, 9, (32, 32), steps=2),
]
DTYPES = (torch.float32, torch.bfloat16)


def _call(case: Case, row: str) -> None:
    outs, _ = run(case, row, poisoned=False)
    run(case, row, [torch.ones_like(out) for out in outs], poisoned=False)


def _sample(row: str, dtype: torch.dtype, device: str) -> Tensor:
    torch.manual_seed(0)
    decoder = vf.PixelCNNDecoder(1, latent_dim=3, hidden_dim=16, n_layers=2, image_size=(6, 5)).to(device, dtype)
    z, noise = torch.randn(2, 3, dtype=dtype), torch.rand(2, 1, 6, 5, dtype=dtype)
    return vf.PixelCNNSampler(decoder, row).sample(z.to(device), noise.to(device))


def calls(device: str) -> Iterator[tuple[str, Callable[[], object]]]:
    """Names, and calls that launch kernels; of a row that cannot, the reason is printed."""
    for row in backends.table.TABLE:
        for dtype in DTYPES if device in (row.devices or ()) else ():
            like = torch.empty(0, dtype=dtype, device=device)
            told = f"{row.name} {str(dtype).removeprefix('torch.')}"
            able = {op: row.why_not(op, like) for op in sorted({case.op for case in SMALL} | {"pixelcnn_sample"})}
            print(*(f"left out: {told} {op}: {reason}" for op, reason in able.items() if reason), sep="\n", end="\n")
            for case in SMALL:
                if able[case.op] is None:
                    yield f"{told} {case}", partial(_call, case.to(dtype, device), row.name)
            if able["pixelcnn_sample"] is None:
                yield f"{told} sampler", partial(_sample, row.name, dtype, device)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a rehearsal in the interpreter")
    options = parser.parse_args(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("the calls need a CUDA device, and torch sees none")
    done = 0
    for name, call in calls(options.device):
        print(name, flush=True)
        call()
        if options.device == "cuda":
            torch.cuda.synchronize()  # an error is that of this call
        done += 1
    print(f"{done} calls")
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main())
