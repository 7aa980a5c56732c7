"""The steps of a flow one after the other: the x of one, its dimensions reversed, is the eps of the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import NamedTuple

import torch
from torch import Tensor


class Step(NamedTuple):
    """A step's share of the arguments of `made_inverse`."""

    weights: list[Tensor]
    biases: list[Tensor]
    cond: Tensor | None


def steps_of(
    weights: Sequence[Tensor], biases: Sequence[Tensor], degrees: Sequence[Tensor], cond: Tensor | None
) -> list[Step]:
    """What `made_inverse` was given, cut into steps of ``len(degrees) - 1`` layers, in the order in which they run."""
    n_layers = len(degrees) - 1
    n_steps = len(weights) // n_layers
    conds = [None] * n_steps if cond is None else cond.chunk(n_steps, 1)
    cuts = [slice(i * n_layers, (i + 1) * n_layers) for i in range(n_steps)]
    return [Step(list(weights[cut]), list(biases[cut]), part) for cut, part in zip(cuts, conds, strict=True)]


Inverse = Callable[..., tuple[Tensor, Tensor]]


def step_by_step(inverse: Inverse) -> Inverse:
    """Of the inverse of one step, which gives x ``[B, D]`` and log_det, that of several: x is ``[S, B, D]``."""

    @wraps(inverse)
    def of_all(
        eps: Tensor,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        degrees: Sequence[Tensor],
        cond: Tensor | None,
        *options: str,
        **named: str,
    ) -> tuple[Tensor, Tensor]:
        outs: list[tuple[Tensor, Tensor]] = []
        for step in steps_of(weights, biases, degrees, cond):
            eps = outs[-1][0].flip(1) if outs else eps
            outs.append(inverse(eps, step.weights, step.biases, degrees, step.cond, *options, **named))
        xs, log_dets = zip(*outs, strict=True)
        return (torch.stack(xs) if len(xs) > 1 else xs[0][None]), sum(log_dets[1:], log_dets[0])

    return of_all
