"""Attention of a traced decoder between its two products: the scores of all pairs of pixels, then their weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from .affine import Affine, Dependent
from .axes import Axes, AxesError, channels_of, shape_of

_FAR = 1e3  # a score so far below another one has weight 0, whatever the features are
_TURNED = {"H": "W", "W": "H"}


@dataclass(frozen=True, eq=False)
class Scores(Dependent):
    """``gain q[m] . k[n] + bias`` of all pixels m and n, by heads; behind a softmax over n the weights of it.

    They are an image of N x N pixels, of which H is m and W is n, with a channel for each head.

    q, k: as many channels for each head, head after head. gain, bias: ``[heads, N, N]``, or of length 1 along what they
    are the same along. weight: likewise, what the softmax is multiplied by; None before it.
    """

    axes: Axes
    q: Affine
    k: Affine
    gain: Tensor
    bias: Tensor
    weight: Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return shape_of(self.axes)

    @property
    def heads(self) -> int:
        return prod(map(channels_of, self.axes))

    def rows(self, index: Tensor, axes: Axes) -> Scores:
        """The heads of these numbers."""
        q, k = (h.rows(_of_heads(index, h.channels // self.heads)) for h in (self.q, self.k))
        gain, bias = (t if len(t) == 1 else t[index.to(t.device)] for t in (self.gain, self.bias))
        weight = self.weight
        if weight is not None and len(weight) > 1:
            weight = weight[index.to(weight.device)]
        return Scores(axes, q, k, gain, bias, weight)

    def turned(self) -> Scores:
        """The same with rows as keys."""
        axes = tuple(tuple((_TURNED.get(letter, letter), n) for letter, n in axis) for axis in self.axes)
        return replace(self, axes=axes, q=self.k, k=self.q, gain=self.gain.mT, bias=self.bias.mT)

    def softmax(self) -> Scores:
        """The weights of all keys of a query."""
        return replace(self, weight=torch.ones_like(self.gain[:1, :1, :1]))

    def without_lonely(self) -> Scores:
        """Weights that are 0 where a query sees no key, which the softmax by itself makes NaN."""
        sees = (self.bias > -torch.inf).any(2, keepdim=True)
        assert self.weight is not None
        return replace(self, weight=torch.where(sees, self.weight, 0))


@dataclass(frozen=True)
class Seen:
    """The pixels that queries see: all before their own, and with ``itself`` their own; scores ``scale q . k``.

    first: the first pixel sees itself, where others do not. scale: ``[heads]`` or ``[1]``. factor: ``[heads, N]`` or
    ``[1, N]``, of each query's result.
    """

    itself: bool
    first: bool
    scale: Tensor
    factor: Tensor


def seen_by(scores: Scores, pixels: int) -> Seen:
    """The pixels that queries see by the constants that scores and weights were combined with.

    Raises:
        AxesError: they see other pixels than all before them in raster order, or these in an uneven way.
    """
    assert scores.weight is not None
    whole = torch.empty(1, pixels, pixels, device="meta")
    shape = torch.broadcast_shapes(whole.shape, scores.gain.shape, scores.bias.shape, scores.weight.shape)
    gain, bias, weight = (t.expand(shape) for t in (scores.gain, scores.bias, scores.weight))
    top = bias.amax(2, keepdim=True)
    seen, dead = bias > top - _FAR, (weight == 0).all(2)  # no comparison is true of NaN
    itself, first = _who_sees_itself(seen, dead)
    alive = seen & ~dead[:, :, None]
    if not (bias.where(alive, top) == top).all():
        raise AxesError("a bias that depends on which pixel is seen")
    scale = _one_value(gain, alive, (1, 2))
    factor = _one_value(weight, seen, (2,)).where(~dead, 0)
    if not itself and not first:
        factor = torch.cat([factor[:, 1:2], factor[:, 1:]], 1)  # that of the first result, which is 0, is any
    return Seen(itself, first, scale, factor)


def _who_sees_itself(seen: Tensor, dead: Tensor) -> tuple[bool, bool]:
    """True where queries see all pixels up to their own, not those before it alone; and where the first one does."""
    up_to = torch.ones(seen.shape[1:], dtype=torch.bool, device=seen.device).tril()
    with_itself, without = ((seen == mask).all(2) | dead for mask in (up_to, up_to.tril(-1)))
    first = bool(with_itself[:, 0].all() and not dead[:, 0].any())
    if with_itself.all():
        return True, first
    if not without[:, 1:].all():
        raise AxesError("attention that sees other pixels than all before its own, or these and its own")
    if not (first or dead[:, 0].all()):
        why = "whose first pixel, which sees none before it, has weights of all pixels, or NaN"
        raise AxesError(f"attention {why}: multiply its weights by 0, or let it see itself")
    return False, first


def _one_value(data: Tensor, where: Tensor, dims: tuple[int, ...]) -> Tensor:
    """The value that data has wherever it counts, along some dimensions; AxesError where it has several."""
    least, most = data.where(where, torch.inf).amin(dims), data.where(where, -torch.inf).amax(dims)
    if not ((least == most) | ~where.any(dims[0]).any(-1) if len(dims) > 1 else (least == most) | ~where.any(2)).all():
        raise AxesError("attention with a factor that depends on which pixel is seen")
    return most


def _of_heads(index: Tensor, each: int) -> Tensor:
    return (index[:, None] * each + torch.arange(each, device=index.device)).flatten()
