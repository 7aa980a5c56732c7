"""Calls of made_inverse that every backend must get right, what makes others of them, and the transform it undoes."""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F

from cases.activations import FORMULAS
from vlae_fast.masks import linear_mask
from vlae_fast.ops import made_inverse
from vlae_fast.reference.arguments import Layers
from vlae_fast.testing import Case, made_case


def any_degrees(case: Case, seed: int = 0) -> Case:
    """The case with its inputs in any order and any integers for hidden degrees, useless ones among them."""
    g = torch.Generator().manual_seed(seed)
    dim, n_params = len(case.tensors["degrees"][0]), len(case.tensors["degrees"][-1]) // len(case.tensors["degrees"][0])
    inputs = torch.randperm(dim, generator=g) + 1
    hidden = [torch.randint(-1, dim + 2, d.shape, generator=g) for d in case.tensors["degrees"][1:-1]]
    degrees = [inputs, *hidden, (inputs - 1).repeat(n_params)]
    return Case(f"{case.name}-any_degrees", case.op, {**case.tensors, "degrees": degrees}, case.options)


def far_scales(case: Case) -> Case:
    """The case with parameters of the scale from -30 to 30: where a slope is at its least, or a logarithm rounds."""
    *first, last = case.tensors["biases"]
    dim = len(last) // 2
    biases = [*first, torch.cat([last[:dim], torch.linspace(-30, 30, dim)])]
    return Case(f"{case.name}-far", case.op, {**case.tensors, "biases": biases}, case.options)


CASES = {
    "affine": made_case(5, 6, (16, 16)),
    "tanh": made_case(1, 9, (32,), activation="tanh"),
    "mean only": made_case(3, 4, (8, 8, 8), affine=False, activation="elu"),
    "condition": made_case(4, 5, (12, 12), cond=True),
    "reversed": made_case(4, 5, (12, 12), reverse=True),
    "one dimension": made_case(2, 1, (4,)),
    "batch of 0": made_case(0, 3, (8,)),
    "wide": made_case(33, 17, (70, 45)),
    "fewer units than degrees": made_case(6, 3, (5, 7, 3), activation="elu"),
    "no hidden layer": made_case(7, 4, ()),
    "one dimension, no hidden layer": made_case(2, 1, (), affine=False),
    "clipped_exp": made_case(5, 6, (16, 16), scale="clipped_exp"),
    "softplus": made_case(3, 4, (8,), scale="softplus", activation="elu"),
    "sigmoid": made_case(4, 5, (12, 12), scale="sigmoid", cond=True),
    "exp_slope": made_case(5, 6, (16, 11), scale="exp_slope", cond=True),
    "any degrees": any_degrees(made_case(7, 9, (30, 41), cond=True)),
    "any degrees, mean only": any_degrees(made_case(2, 3, (6,), affine=False, activation="tanh")),
    "any degrees, one dimension": any_degrees(made_case(5, 1, (6, 4))),
    "three steps": made_case(5, 6, (16, 16), steps=3),
    "any degrees, two steps": any_degrees(made_case(7, 5, (12, 9), steps=2, cond=True)),
    "steps without a hidden layer": made_case(3, 4, (), steps=4, affine=False),
}


FORWARD_CASES = [  # the gradient of these would take D passes of the reference per quantity
    made_case(100, 63, (129, 200), activation="elu", cond=True),
    made_case(33, 63, (77,), affine=False, activation="tanh"),
    any_degrees(made_case(100, 63, (129, 200, 65))),
    *(far_scales(made_case(33, 17, (40,), scale=scale)) for scale in ("clipped_exp", "softplus", "sigmoid")),
    made_case(70, 5, (300, 300)),
]
LARGE_CASES = [made_case(7, 784, (1024, 1024))]


def rows_of(case: Case, rows: slice) -> dict[str, torch.Tensor | None]:
    eps, cond = case.tensors["eps"], case.tensors["cond"]
    return {"eps": eps[rows], "cond": None if cond is None else cond[rows]}


def forward(case: Case, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Undoes the inverse: the steps from the last to the first."""
    t, log_det = case.tensors, 0.0
    steps = Layers(t["weights"], t["biases"], t["degrees"], t["cond"]).steps()
    for s, step in reversed(list(enumerate(steps))):
        tensors = {**t, "weights": step.weights, "biases": step.biases, "cond": step.cond}
        x, of_step = forward_of_step(Case("", case.op, tensors, case.options), x)
        x, log_det = x.flip(1) if s else x, log_det + of_step
    return x, log_det


def forward_of_step(case: Case, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The formulas of the docstring, written out: a MADE layer by layer, then the transform by its parameters."""
    t, h = case.tensors, x
    layers = zip(t["weights"], t["biases"], pairwise(t["degrees"]), strict=True)
    for i, (weight, bias, degrees) in enumerate(layers):
        h = FORMULAS[case.options["activation"]](h) if i else h
        h = F.linear(h, weight * linear_mask(*degrees), bias)
        h = h + t["cond"] if i == 0 and t["cond"] is not None else h
    shift, raw = h.chunk(2, 1) if h.shape[1] > x.shape[1] else (h, torch.zeros_like(h))
    if case.options["scale"] != "exp":
        slope = {
            "exp_slope": torch.exp,
            "clipped_exp": lambda s: torch.exp(s / (1 + s.abs() / math.log(1000))),
            "softplus": lambda s: torch.log1p(torch.exp(s)) + 1e-3,
            "sigmoid": lambda s: 1 / (1 + torch.exp(-s - 2)) + 1e-3,
        }[case.options["scale"]](raw)
        return shift + slope * x, slope.log().sum(1)
    return (x - shift) * torch.exp(-raw), -raw.sum(1)


def check_rows_are_independent(backend: str, steps: int, scale: str, value: float) -> None:
    """A value in one row's eps or condition leaves the others as they are."""
    case = made_case(5, 4, (9, 7), activation="elu", scale=scale, cond=True, steps=steps)
    t, options = case.tensors, {**case.options, "backend": backend}
    clean = made_inverse(**t, **options)
    for name in ("eps", "cond"):
        spoilt = t[name].clone()
        spoilt[2, 0] = value
        x, log_det = made_inverse(**{**t, name: spoilt}, **options)
        others = torch.tensor([0, 1, 3, 4])
        assert not x[2].isfinite().all() and not log_det[2].isfinite()
        torch.testing.assert_close(x[others], clean[0][others])
        torch.testing.assert_close(log_det[others], clean[1][others])
