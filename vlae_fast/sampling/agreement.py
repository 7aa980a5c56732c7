"""Comparison of a decoder with its program: entry by entry, within what roundings explain."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .. import reference
from ..backends.float64 import device_of_float64
from ..plan import Stage

_NEAR = 64  # roundings of an entry's scale: nobody computes another function and comes so close
_FAR = 64  # times the median of a channel: beyond it a value is no sum like the others, but one that was put there
_ROUNDINGS, _NUDGES = 4, 2
_MAP_ROUNDINGS = 1e4  # of a network of z, which may be deep: still less than any other function differs by
_SLACK = 8  # the largest seen of our own decoders, with weights up to 15 times the usual, is 2.1
_MOST = 0.1  # that a probability may ever be off by, whatever the weights


def scales(values: Tensor, same: Tensor) -> Tensor:
    """The size that roundings of each entry of ``[G, N]`` are relative to: its own, or that of its group if larger.

    A sum that cancels has the roundings of its terms, which are as large as the sums beside it. A fixed value, -1e9
    where something is ruled out, tells nothing about them. So what is more than 64 times the median of a group is not
    in the size of the group; the median is of entries that are not the same in two results.

    Args:
        values, same: ``[G, N]``, same being True where two results are equal.
    """
    size = values.abs().double()
    ranked = size.masked_fill(same, torch.inf).sort(1).values
    median = ranked.gather(1, ((~same).sum(1, keepdim=True) - 1).clamp(min=0) // 2)
    return size.maximum(size.where(size <= _FAR * median, 0).amax(1, keepdim=True))


def largest_excess(
    expected: Tensor,
    got: Tensor,
    stages: Sequence[Stage],
    weights: Sequence[Tensor],
    context: Tensor | None,
    image: Tensor,
    eps: float,
    decoders_context: Tensor | None = None,
    finished: Callable[[Tensor], Tensor] | None = None,
    probabilities: bool = False,
) -> float:
    """The largest ``|got - expected|`` that roundings do not explain, 0 where they explain all.

    An entry is judged by its `scales` in its channel: a logit of -1e9 elsewhere excuses nothing in it. Where the two
    are not within a few roundings of these, the program is run in float64, as it is and with weights and context off
    by roundings. Both results must be as near to the float64 result as the disturbed runs are: large weights amplify
    roundings.

    Args:
        expected, got: of the decoder and of the sampler, ``[B, P, H, W]``.
        stages, weights, context, image: what `reference.run_program` is given. eps: of the products that were used.
        decoders_context: the context as the decoder computes it, where that has other roundings. The largest difference
            is returned as well where it is more than these.
        finished: what `expected` and `got` are of the program's output; None: the output itself.
        probabilities: they are in [0, 1], relative to 1, and never off by more than 0.1.
    """
    wide_device = device_of_float64(image.device)
    if wide_device != image.device:
        expected, got, image = (t.to(wide_device) for t in (expected, got, image))
        weights = [w.to(wide_device) for w in weights]
        context, decoders_context = (None if t is None else t.to(wide_device) for t in (context, decoders_context))

    def scales_of(values: Tensor) -> Tensor:
        return torch.ones_like(off) if probabilities else scales(_channels(values), same)

    same, off = _channels(got == expected), _channels(got.double() - expected.double()).abs()
    most = _MOST if probabilities else torch.inf
    if (off <= (_NEAR * eps * scales_of(expected)).clamp(max=most)).all():
        return 0.0
    generator = torch.Generator().manual_seed(1)

    def run(context: Tensor | None, *, nudged: bool = False) -> Tensor:
        def wide(t: Tensor, size: Tensor) -> Tensor:
            if not nudged:
                return t.double()
            noise = 2 * torch.rand(t.shape, generator=generator, dtype=torch.float64, device="cpu") - 1
            return t.double() + _ROUNDINGS * eps * noise.to(t.device) * size.double()

        # a map of z is a sum itself: its small values have the roundings of its large ones, but its zeros are exact
        own = None if context is None else wide(context, _size_of_map(context).where(context != 0, 0))
        return _run(stages, [wide(w, w) for w in weights], own, image.double(), finished)

    truth = run(context)
    near = [_run(stages, weights, context, image, finished)]
    near += [run(context, nudged=True) for _ in range(_NUDGES)]
    if context is not None and decoders_context is not None:
        if not ((decoders_context - context).abs() <= _MAP_ROUNDINGS * eps * _size_of_map(context)).all():
            return off.max().item()
        near.append(run(decoders_context))
    size = scales_of(truth.view_as(got))
    # a channel of few pixels is small by luck, and its sums are not; one that is fixed has no say
    least = size.masked_fill(same, torch.inf).amin(1)
    size = size.clamp(min=least[least < torch.inf].median().item() if (least < torch.inf).any() else 1e-300)
    size = size.clamp(min=1e-300)
    spread = torch.stack([(_channels(other - truth).abs() / size).amax(1) for other in near]).amax(0)
    allowed = (_SLACK * (spread.clamp(min=spread.median().item()) + eps)[:, None] * size).clamp(max=most)
    off = torch.stack([_channels(result.double() - truth).abs() for result in (expected, got)]).amax(0)
    excess = off[~(off <= allowed)]
    return excess.max().item() if len(excess) else 0.0


def _run(
    stages: Sequence[Stage],
    weights: Sequence[Tensor],
    context: Tensor | None,
    image: Tensor,
    finished: Callable[[Tensor], Tensor] | None,
) -> Tensor:
    out = reference.run_program(stages, weights, context, image)
    return (out if finished is None else finished(out)).double()


def _size_of_map(context: Tensor) -> Tensor:
    """The `scales` of a map of z, by channel where it has pixels; zeros have no say."""
    rows = _channels(context) if context.dim() == 4 else context.reshape(1, -1)
    size = scales(rows, rows == 0)
    if context.dim() < 4:
        return size.view_as(context)
    return size.unflatten(1, (len(context), *context.shape[2:])).movedim(0, 1)


def _channels(values: Tensor) -> Tensor:
    """``[P, B H W]`` of ``[B, P, H, W]``."""
    return values.movedim(1, 0).flatten(1)
