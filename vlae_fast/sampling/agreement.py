"""Comparison of a decoder with its program: channel by channel, within what roundings explain."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import reference
from ..plan import Stage

_NEAR = 64  # roundings of a channel's largest value: nobody computes another function and comes so close
_ROUNDINGS, _NUDGES = 4, 2
_MAP_ROUNDINGS = 1e4  # of a network of z, which may be deep: still less than any other function differs by
_SLACK = 8  # the largest seen of our own decoders, with weights up to 15 times the usual, is 2.1


def largest_excess(
    expected: Tensor,
    got: Tensor,
    stages: Sequence[Stage],
    weights: Sequence[Tensor],
    context: Tensor | None,
    image: Tensor,
    eps: float,
    decoders_context: Tensor | None = None,
) -> float:
    """The largest ``|got - expected|`` that roundings do not explain, 0 where they explain all.

    A channel is judged by itself: another one with a logit of -1e9 excuses nothing in it. Where the two are not within
    a few roundings of the channel's largest value, the program is run in float64, as it is and with weights and context
    off by roundings. Both results must be as near to the float64 result as the disturbed runs are: large weights
    amplify roundings.

    Args:
        expected, got: of the decoder and of the sampler, ``[B, P, H, W]``.
        stages, weights, context, image: what `reference.run_program` is given. eps: of the products that were used.
        decoders_context: the context as the decoder computes it, where that has other roundings. The largest difference
            is returned as well where it is more than these.
    """
    error = _by_channel(got.double() - expected.double())
    if (error <= _NEAR * eps * _by_channel(expected)).all():
        return 0.0
    generator = torch.Generator().manual_seed(1)

    def run(context: Tensor | None, *, nudged: bool = False) -> Tensor:
        def wide(t: Tensor, size: Tensor) -> Tensor:
            if not nudged:
                return t.double()
            noise = 2 * torch.rand(t.shape, generator=generator, dtype=torch.float64, device="cpu") - 1
            return t.double() + _ROUNDINGS * eps * noise.to(t.device) * size.double()

        # a map of z is a sum itself: its small values have the roundings of its large ones
        own = None if context is None else wide(context, context.abs().amax())
        return reference.run_program(stages, [wide(w, w) for w in weights], own, image.double())

    truth = run(context)
    near = [reference.run_program(stages, weights, context, image).double()]
    near += [run(context, nudged=True) for _ in range(_NUDGES)]
    if context is not None and decoders_context is not None:
        if not (decoders_context - context).abs().max() <= _MAP_ROUNDINGS * eps * context.abs().max():
            return (got.double() - expected.double()).abs().max().item()
        near.append(run(decoders_context))
    size = _by_channel(truth)
    size = size.clamp(min=size.median().item())  # a channel of few pixels is small by luck, and its sums are not
    spread = torch.stack([_by_channel(other - truth) for other in near]).amax(0) / size.clamp(min=1e-300)
    allowed = _SLACK * (spread.clamp(min=spread.median().item()) + eps) * size
    off = torch.stack([_by_channel(result.double() - truth) for result in (expected, got)]).amax(0)
    excess = off[~(off <= allowed)]
    return excess.max().item() if len(excess) else 0.0


def _by_channel(values: Tensor) -> Tensor:
    """The largest absolute value of each channel, ``[P]``; NaN where there is one."""
    return values.abs().double().amax((0, 2, 3))
