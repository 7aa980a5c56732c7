"""Calls of made_sample that every backend must get right, by purpose, and the D passes that they stand for."""

from itertools import pairwise

import torch
import torch.nn.functional as F

from cases.activations import FORMULAS
from vlae_fast.masks import linear_mask
from vlae_fast.testing import Case, made_sample_case


def any_degrees(case: Case, seed: int = 0) -> Case:
    """The case with its inputs in any order and any integers for hidden degrees, useless ones among them."""
    g = torch.Generator().manual_seed(seed)
    first, *hidden, _ = case.tensors["degrees"]
    inputs = torch.randperm(len(first), generator=g) + 1
    hidden = [torch.randint(-1, len(first) + 2, d.shape, generator=g) for d in hidden]
    degrees = [inputs, *hidden, inputs - 1]
    return Case(f"{case.name}-any_degrees", case.op, {**case.tensors, "degrees": degrees}, case.options)


CASES = {
    "relu": made_sample_case(5, 6, (16, 16)),
    "elu": made_sample_case(3, 4, (8, 8, 8), activation="elu"),
    "tanh": made_sample_case(1, 9, (32,), activation="tanh"),
    "condition": made_sample_case(4, 5, (12, 12), cond=True),
    "reversed": made_sample_case(4, 5, (12, 12), reverse=True),
    "one dimension": made_sample_case(2, 1, (4,)),
    "batch of 0": made_sample_case(0, 3, (8,)),
    "wide": made_sample_case(33, 17, (70, 45)),
    "no hidden layer": made_sample_case(7, 4, ()),
    "any degrees": any_degrees(made_sample_case(7, 9, (30, 41), cond=True)),
    "many samples": any_degrees(made_sample_case(70, 40, (129, 200), activation="elu")),
}


def by_passes(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """The formulas of the docstring, written out: D passes, then the log-probability of what came out."""
    t = case.tensors
    noise, x = t["noise"], torch.zeros_like(t["noise"])

    def logits(x: torch.Tensor) -> torch.Tensor:
        layers = zip(t["weights"], t["biases"], pairwise(t["degrees"]), strict=True)
        for i, (weight, bias, degrees) in enumerate(layers):
            x = FORMULAS[case.options["activation"]](x) if i else x
            x = F.linear(x, weight * linear_mask(*degrees), bias)
            x = x + t["cond"] if i == 0 and t["cond"] is not None else x
        return x

    for _ in range(noise.shape[1]):
        x = (noise < torch.sigmoid(logits(x))).to(noise)
    p = torch.sigmoid(logits(x))
    return x, torch.where(x == 1, p, 1 - p).log().sum(1)
