"""Checks that must hold before anything is timed: images, ops and modules against their references."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vlae_fast import testing
from vlae_fast.sampling.emit import Samples

from .cases import ConvCase, InverseCase, LinearCase, SamplingCase, TrainingCase, torch_dtype
from .gpu import precision

GAP = {  # a dtype cannot decide a pixel whose logit is this close to its threshold
    "float32": 1e-5,
    "tf32": 3e-2,
    "bfloat16": 0.2,
}
TOLERANCE = {"float32": 1e-3, "tf32": 1e-2, "bfloat16": 5e-2}  # of a module, relative to the largest value


class WrongResultError(Exception):
    """Ours disagrees with the reference, or a peer with ours: nothing is timed."""


def check_images(case: SamplingCase, drawn: Samples, noise: Tensor, expected: Tensor, whose: str, rows: int) -> int:
    """Images that differ in the first rows: each may, from a pixel on that the dtype cannot decide."""
    images, logits, noise, expected = (t[:, :, :rows].permute(0, 2, 3, 1).flatten(1) for t in (*drawn, noise, expected))
    different = images != expected
    first = different.int().argmax(1, keepdim=True)
    tie = (logits - torch.logit(noise)).abs().gather(1, first) < GAP[case.held or case.dtype]
    if (different.any(1) & ~tie[:, 0]).any():
        raise WrongResultError(f"{case.name}: images differ from those of {whose}")
    return int(different.any(1).sum())


def check_ops(case: ConvCase | LinearCase | InverseCase, backend: str, device: torch.device) -> str:
    """The ops of a case against the reference, in a small batch: what a sample gets does not depend on its batch.

    Never in TF32: whether the reference rounds to it is the choice of a library, and with it the budget.
    """
    grad = not isinstance(case, InverseCase)
    nudges = 0 if grad else 3  # a log-determinant is a number a sample: the reference may owe its error to luck
    op_cases = [op_case.to(torch_dtype(case.dtype), str(device)) for op_case in case.op_cases()]
    try:
        with precision("float32"):
            errors = [testing.check_op(op_case, backend, grad=grad, nudges=nudges) for op_case in op_cases]
    except AssertionError as error:
        raise WrongResultError(str(error)) from error
    return f"largest error {max(max(ratios.values()) for ratios in errors):.2f} of its budget"


def check_module(case: ConvCase | LinearCase | TrainingCase, ours: nn.Module, dense: nn.Module, x: Tensor) -> str:
    """Outputs and gradients of the same parameters, at the dtype's accuracy for sums of this length."""
    results = []
    for module in (ours, dense):
        leaf = x.clone().requires_grad_()
        y = module(leaf)
        weights = [p for p in module.parameters() if p.requires_grad]
        results.append([y, *torch.autograd.grad(y, [leaf, *weights], torch.ones_like(y).div_(y.numel()))])
    pairs = [(a.double(), b.double()) for a, b in zip(*results, strict=True)]
    worst = max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)
    if not worst < TOLERANCE[case.dtype]:
        raise WrongResultError(f"{case.name}: off by {worst:.2g} of the largest value")
    return f"largest difference {worst:.1e} of the largest value"
