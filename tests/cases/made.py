"""Calls of made that every backend must get right, and what makes others of them."""

import torch

from vlae_fast.testing import Case, made_layers_case


def any_order(case: Case, seed: int = 0) -> Case:
    """The case with the units of every layer in no order."""
    g = torch.Generator().manual_seed(seed)
    degrees = [d[torch.randperm(len(d), generator=g)] for d in case.tensors["degrees"]]
    return Case(f"{case.name}-any_order", case.op, {**case.tensors, "degrees": degrees}, case.options)


def some_dead(case: Case) -> Case:
    """The case with hidden units that read nothing and hidden units that nobody reads."""
    first, *hidden, last = case.tensors["degrees"]
    spread = [torch.linspace(-2, len(first) + 2, len(d)).long() for d in hidden]
    return Case(f"{case.name}-some_dead", case.op, {**case.tensors, "degrees": [first, *spread, last]}, case.options)


CASES = {
    "plain": made_layers_case(5, 6, (12, 9)),
    "one unit": made_layers_case(1, 1, (1,), affine=False),
    "one hidden layer": made_layers_case(3, 7, (33,), activation="elu"),
    "no hidden layer": made_layers_case(4, 9, ()),
    "five layers": made_layers_case(19, 10, (40, 30, 50, 20), activation="tanh"),
    "condition": made_layers_case(18, 8, (37, 20), activation="elu", cond=True),
    "condition, relu": made_layers_case(33, 5, (50,), cond=True),
    "batch of 0": made_layers_case(0, 4, (6, 5), cond=True),
    "batch of 1": made_layers_case(1, 40, (70, 90), activation="elu"),
    "reversed": made_layers_case(17, 12, (30, 31), reverse=True, activation="tanh"),
    "any order": any_order(made_layers_case(40, 13, (60, 45), activation="elu", cond=True)),
    "some dead": some_dead(made_layers_case(21, 9, (40, 44), activation="relu")),
    "several tiles": made_layers_case(300, 24, (96, 130), activation="relu", cond=True),
    "wide": made_layers_case(130, 64, (640, 640)),
}
LARGE_CASES = [made_layers_case(256, 784, (1024, 1024)), made_layers_case(1024, 64, (640, 640), activation="elu")]
