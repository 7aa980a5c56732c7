"""Launches of a step by Triton's launcher and by kept binaries, for `tests/kernels/test_kept_binaries.py`.

A process of its own: in the tests' kernels are interpreted. Prints what it found as JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from triton.runtime.jit import JITFunction

from benchmarks.host_time import STEPS
from benchmarks.no_gpu import Driver, Launched, without_gpu
from vlae_fast.kept import forget_plans


def described(launched: Launched) -> list[Any]:
    return [launched.kernel, launched.binary, launched.grid, [_described(arg) for arg in launched.args]]


def _described(arg: Any) -> Any:
    if isinstance(arg, Tensor):
        return [str(arg.dtype), list(arg.shape), arg.data_ptr() % 16]
    return [_described(one) for one in arg] if isinstance(arg, tuple) else arg


def of_step(name: str, driver: Driver) -> list[list[Any]]:
    """For two runs of a step: kernels that Triton's launcher was asked for, and all that were launched."""
    step = STEPS[name]()
    forget_plans()
    return [noted(step, driver) for _ in range(2)]


def noted(call: Any, driver: Driver) -> list[Any]:
    run, asked = JITFunction.run, []

    def asks(self: JITFunction, *args: Any, **options: Any) -> Any:
        asked.append(self.fn.__name__)
        return run(self, *args, **options)

    driver.launched = []
    with mock.patch.object(JITFunction, "run", asks):
        call()
    return [asked, [described(one) for one in driver.launched]]


def of_parts(driver: Driver) -> dict[str, Any]:
    """Launches of one plan: on aligned tensors twice, on one that is not, on another dtype, on aligned ones again."""
    from vlae_fast.kernels.parts import _plan

    add = _plan((8, 64), torch.float32, torch.device("cpu")).add
    memory, out = torch.zeros(8 * 64 + 1), torch.zeros(64)
    first, second = memory[:-1], memory[1:]
    calls = {
        "first": (first, out),
        "second": (first, out),
        "unaligned": (second, out),
        "another dtype": (first, out.bfloat16()),
        "aligned again": (first, out),
    }
    return {name: noted(lambda tensors=tensors: add(*tensors), driver) for name, tensors in calls.items()}


if __name__ == "__main__":
    with without_gpu() as driver:
        steps = {name: of_step(name, driver) for name in STEPS if "forward + backward" in name}
        json.dump({"steps": steps, "parts": of_parts(driver)}, sys.stdout)
