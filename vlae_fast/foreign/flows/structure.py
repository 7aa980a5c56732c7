"""Degrees of a masked network that somebody else has made, out of its masks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ... import reference
from ...masks import linear_mask
from ...ops.made_inverse import ACTIVATIONS


class NotCoveredError(Exception):
    """Why a flow is left alone."""


class Structure(NamedTuple):
    """Degrees of the inputs, the hidden layers and the outputs, on the CPU; whether they say all of a layer's mask."""

    degrees: tuple[Tensor, ...]
    exact: tuple[bool, ...]


def structure_of(masks: Sequence[Tensor]) -> Structure:
    """Degrees under which no live weight of the masks ``[O, I]`` is dead.

    The last layer's outputs are tiled: output k belongs to input ``k % D``. An input comes after all that its outputs
    depend on; a hidden unit has the degree of the last input that it sees.

    Raises:
        NotCoveredError: an output depends on its own input.
    """
    live = [mask.cpu() != 0 for mask in masks]
    dim = live[0].shape[1]
    inputs = _order(live, dim)
    degrees = [inputs]
    for mask in live[:-1]:
        degrees.append(torch.where(mask, degrees[-1], 0).amax(1))
    degrees.append((inputs - 1).repeat(len(live[-1]) // dim))
    exact = [m.equal(linear_mask(i, o)) for m, i, o in zip(live, degrees[:-1], degrees[1:], strict=True)]
    return Structure(tuple(degrees), tuple(exact))


def _order(live: Sequence[Tensor], dim: int) -> Tensor:
    """A place from 1 to D for each input, behind those that it depends on."""
    seen = live[0]
    for mask in live[1:]:
        seen = (mask.float() @ seen.float()) > 0
    return order_of(seen.unflatten(0, (-1, dim)).any(0))


def order_of(before: Tensor) -> Tensor:
    """A place from 1 to D for each dimension, behind those j that it depends on: where ``before[i, j]`` is True.

    Raises:
        NotCoveredError: a dimension depends on itself, by way of others or not.
    """
    while True:
        further = before | ((before.float() @ before.float()) > 0)
        if further.equal(before):
            break
        before = further
    if before.diagonal().any():
        i = int(before.diagonal().nonzero()[0])
        raise NotCoveredError(f"it is not autoregressive: dimension {i} depends on itself")
    return before.sum(1).argsort(stable=True).argsort() + 1


def common_activation(functions: Iterable[Callable[[Tensor], Tensor]]) -> str:
    """The name of what all functions compute; any where there are none.

    Raises:
        NotCoveredError: they differ, or the op has no such activation.
    """
    names = sorted({activation_name(function) for function in functions}) or ["relu"]
    if len(names) > 1:
        raise NotCoveredError(f"its activations must be the same, got {', '.join(names)}")
    return names[0]


def activation_name(function: Callable[[Tensor], Tensor]) -> str:
    """The name of the activation that the function computes, among those of the op.

    Raises:
        NotCoveredError: something else.
    """
    far = torch.tensor([7.0, 21.0, 1e2, 1e4], device="cpu")  # where one that is cut off differs
    grid = torch.cat([-far, torch.linspace(-4, 4, 33, device="cpu"), far])
    for name in ACTIVATIONS:
        if torch.allclose(function(grid), reference.activate(grid, name)):
            return name
    name = getattr(function, "__name__", type(function).__name__)
    raise NotCoveredError(f"its activation must be one of {', '.join(ACTIVATIONS)}, got {name}")
