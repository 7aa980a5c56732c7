"""The steps of a flow one after the other: the x of one, its dimensions reversed, is the eps of the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import NamedTuple

import torch
from torch import Tensor


class Step(NamedTuple):
    """The share of a step, or of some in a row, of the arguments of `made_inverse`."""

    weights: list[Tensor]
    biases: list[Tensor]
    cond: Tensor | None


def steps_of(
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    degrees: Sequence[Tensor],
    cond: Tensor | None,
    at_once: int = 1,
) -> list[Step]:
    """What `made_inverse` was given, cut into steps of ``len(degrees) - 1`` layers, in the order in which they run."""
    n_layers, columns = len(degrees) - 1, degrees[1].shape[0]

    def cut(i: int) -> Step:
        layers, units = (slice(i * n, (i + at_once) * n) for n in (n_layers, columns))
        return Step(list(weights[layers]), list(biases[layers]), None if cond is None else cond[:, units])

    return [cut(i) for i in range(0, len(weights) // n_layers, at_once)]


Inverse = Callable[..., tuple[Tensor, Tensor]]


def in_turn(
    eps: Tensor, steps: Sequence[Step], inverse: Callable[[Tensor, Step], tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Of ``inverse(eps, step)``, which gives x ``[s, B, D]`` of the s steps in a share and log_det, that of all."""
    outs: list[tuple[Tensor, Tensor]] = []
    for step in steps:
        eps = outs[-1][0][-1].flip(1) if outs else eps
        outs.append(inverse(eps, step))
    xs, log_dets = zip(*outs, strict=True)
    return (torch.cat(xs) if len(xs) > 1 else xs[0]), sum(log_dets[1:], log_dets[0])


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
        def of_one(eps: Tensor, step: Step) -> tuple[Tensor, Tensor]:
            x, log_det = inverse(eps, step.weights, step.biases, degrees, step.cond, *options, **named)
            return x[None], log_det

        return in_turn(eps, steps_of(weights, biases, degrees, cond), of_one)

    return of_all
