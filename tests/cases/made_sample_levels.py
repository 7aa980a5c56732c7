"""Calls of made_sample_levels that every backend must get right, by purpose."""

from cases.made_sample import any_degrees as any_degrees_of_bits
from vlae_fast.testing import Case, made_sample_levels_case


def any_degrees(case: Case) -> Case:
    """The case with its dimensions in any order and any integers for hidden degrees, useless ones among them."""
    tables = case.tensors["tables"]
    moved = any_degrees_of_bits(Case(case.name, case.op, {"degrees": _by_dimension(case)}, {}))
    order, *hidden, _ = moved.tensors["degrees"]
    inputs = order.repeat_interleave(order.new_tensor([t.shape[1] for t in tables]))
    outputs = (order - 1).repeat_interleave(order.new_tensor([len(t) for t in tables]))
    return Case(moved.name, case.op, {**case.tensors, "degrees": [inputs, *hidden, outputs]}, case.options)


def _by_dimension(case: Case) -> list:
    first, *hidden, last = case.tensors["degrees"]
    starts, at = [], 0
    for table in case.tensors["tables"]:
        starts.append(at)
        at += table.shape[1]
    return [first[starts], *hidden, last]


MIXED = ((3, 1), (7, 4), (1, 1), (2, 2), (40, 3), (5, 5))
CASES = {
    "relu": made_sample_levels_case(5, MIXED, (16, 16)),
    "elu": made_sample_levels_case(3, ((4, 1),) * 4, (8, 8, 8), activation="elu"),
    "tanh": made_sample_levels_case(1, ((2, 1),) * 9, (32,), activation="tanh"),
    "condition": made_sample_levels_case(4, MIXED, (12, 12), cond=True),
    "one dimension": made_sample_levels_case(2, ((6, 2),), (4,)),
    "one level": made_sample_levels_case(3, ((1, 1), (1, 2)), (4,)),
    "batch of 0": made_sample_levels_case(0, ((3, 1),) * 3, (8,)),
    "no hidden layer": made_sample_levels_case(7, MIXED, ()),
    "any degrees": any_degrees(made_sample_levels_case(7, MIXED, (30, 41), cond=True)),
    "many samples": any_degrees(made_sample_levels_case(70, ((9, 2), (30, 1)) * 6, (129, 100), activation="elu")),
    "many levels": made_sample_levels_case(33, ((700, 8), (300, 1)), (20,)),
}
