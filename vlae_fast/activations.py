"""The table of activations. Ops, layers and plans read it; `tests/test_activations.py` holds every backend to it.

A new activation is a row here and its formulas: `reference/activation.py`, and on each device that is to have it.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import nn


class Activation(NamedTuple):
    """A row of the table."""

    name: str  # as in ``activation=`` of the ops, in C++ and in Triton
    ops: tuple[str, ...]  # which take it as an argument; none: it is for stages of a plan alone
    code: int | None = None  # in a plan, for `pixelcnn_sample`; None: a stage cannot have it
    columns: int = 1  # of the pre-activation for each channel of the output
    slope_of_output: bool = True  # the output alone gives the slope: nothing else is kept for the backward
    module: type[nn.Module] | None = None  # PyTorch's, with its default arguments


_MADE = ("made", "made_inverse", "made_sample", "made_sample_levels")  # one network, run, inverted or sampled
TABLE = (
    Activation("none", ("masked_conv", "masked_linear"), 0),
    Activation("relu", ("masked_conv", "masked_linear", *_MADE), 1, module=nn.ReLU),
    Activation("elu", ("masked_conv", "masked_linear", *_MADE), 2, module=nn.ELU),
    Activation("gate", ("masked_conv",), 3, columns=2, slope_of_output=False),
    Activation("tanh", ("masked_linear", *_MADE), 4, module=nn.Tanh),
    Activation("sigmoid", (), 5, module=nn.Sigmoid),
    Activation("softplus", (), 6, slope_of_output=False, module=nn.Softplus),
    Activation("silu", (), 7, slope_of_output=False, module=nn.SiLU),
    Activation("gelu", (), 8, slope_of_output=False, module=nn.GELU),
    Activation("gelu_tanh", (), 9, slope_of_output=False),
    Activation("glu", (), 10, columns=2, slope_of_output=False),
)
BY_NAME = {row.name: row for row in TABLE}


def _names_by_op() -> dict[str, tuple[str, ...]]:
    found = {op: tuple(row.name for row in TABLE if op in row.ops) for row in TABLE for op in row.ops}
    coded = sorted((row.code, row.name) for row in TABLE if row.code is not None)
    return found | {"pixelcnn_sample": tuple(name for _, name in coded)}


_NAMES = _names_by_op()  # ops check an activation in every call


def names(op: str) -> tuple[str, ...]:
    """The activations that an op takes; for `pixelcnn_sample` the activations of a stage, by their codes."""
    return _NAMES[op]


def check(caller: str, op: str, name: str) -> None:
    """Raises ValueError unless an op takes the activation; ``caller`` is whose argument it is."""
    if name not in (taken := names(op)):
        raise ValueError(f"{caller}: activation must be one of {', '.join(taken)}, got {name!r}")


def columns(name: str) -> int:
    """P / C: how many columns of the pre-activation make a channel of the output."""
    return BY_NAME[name].columns
