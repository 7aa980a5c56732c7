"""Calls of masked_linear that every backend must get right, and what makes others of them."""

import torch

from vlae_fast.testing import Case, linear_case


def any_degrees(case: Case, seed: int = 0, span: int = 10) -> Case:
    """The case with degrees in no order, inputs that no output reads and outputs that read no input among them."""
    g = torch.Generator().manual_seed(seed)
    out_dim, in_dim = case.tensors["weight"].shape
    degrees = {
        "in_degrees": torch.randint(-span, span + 2, (in_dim,), generator=g),
        "out_degrees": torch.randint(-span - 2, span, (out_dim,), generator=g),
    }
    return Case(f"{case.name}-any_degrees", case.op, {**case.tensors, **degrees}, case.options)


def tiled_degrees(case: Case) -> Case:
    """The case with the outputs of a MADE with two parameters a dimension: sorted, twice."""
    half = case.tensors["out_degrees"][::2]
    degrees = {"out_degrees": half.repeat(2)[: len(case.tensors["out_degrees"])]}
    return Case(f"{case.name}-tiled", case.op, {**case.tensors, **degrees}, case.options)


def dead_blocks(case: Case) -> Case:
    """The case with an adjacency that has empty rows, columns and blocks."""
    adjacency = case.tensors["adjacency"].clone()
    adjacency[: len(adjacency) // 2, adjacency.shape[1] // 3 :] = False
    adjacency[1::5] = False
    adjacency[:, 2::7] = False
    return Case(f"{case.name}-dead_blocks", case.op, {**case.tensors, "adjacency": adjacency}, case.options)


CASES = {
    "plain": linear_case(5, 8, 12),
    "one unit": linear_case(1, 1, 1, activation="relu"),
    "elu": linear_case(7, 33, 70, activation="elu"),
    "tanh": linear_case(3, 64, 130, activation="tanh"),
    "adjacency": linear_case(4, 9, 6, adjacency=True, activation="relu"),
    "batch of 0": linear_case(0, 4, 6),
    "one more unit than blocks": linear_case(16, 130, 257),
    "adjacency, batch of 1": linear_case(1, 40, 30, adjacency=True, activation="elu"),
    "adjacency, tanh": linear_case(33, 90, 71, adjacency=True, activation="tanh"),
    "large batch": linear_case(200, 20, 50, activation="relu"),
    "whole blocks": linear_case(29, 16, 32, activation="elu"),
    "any degrees": any_degrees(linear_case(15, 67, 95, activation="relu")),
    "few degrees": any_degrees(linear_case(3, 5, 4), span=1),
    "tiled degrees": tiled_degrees(linear_case(31, 120, 128)),
    "pieces meet inside a vector": tiled_degrees(linear_case(20, 60, 80, activation="relu")),
    "an odd number of vectors": linear_case(17, 44, 76, activation="elu"),
    "wide": linear_case(130, 640, 640, activation="relu"),
}
LARGE_CASES = [linear_case(256, 1024, 1568), linear_case(1024, 784, 1024, activation="relu")]
