"""How a layer that has been looked at becomes one of the ops: mask type or degrees, and what is done to its weight."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..masks import MASK_TYPES, Pair, conv_mask, linear_mask, live_taps
from .probe import ConvTaps, ProbeError


class ConvSpec(NamedTuple):
    """How a convolution's weight becomes one of `masked_conv`."""

    mask_type: str
    image_channels: int
    side: int  # of the op's kernel
    pad: tuple[int, int, int, int]  # of the weight: left, right, top, bottom; negative cuts off what is dead
    live: Tensor | None  # boolean, like the weight, where the mask type alone lets too much live
    dilation: Pair = (1, 1)

    @property
    def op(self) -> str:
        return "masked_conv"

    def __str__(self) -> str:
        channels = f" of {self.image_channels} image channels" if self.image_channels > 1 else ""
        dilated = "" if self.dilation == (1, 1) else " dilated " + "x".join(map(str, self.dilation))
        return f"masked_conv {self.mask_type}{channels} {self.side}x{self.side}{dilated}"


class LinearSpec(NamedTuple):
    """The mask of a linear layer as degrees, where there are such; and these sorted, for devices that want them so."""

    adjacency: Tensor | None
    in_degrees: Tensor | None = None
    out_degrees: Tensor | None = None
    in_sorted: Tensor | None = None
    out_sorted: Tensor | None = None
    in_order: Tensor | None = None  # None: the order that they have
    out_order: Tensor | None = None
    out_back: Tensor | None = None  # from that order to the layer's own

    @property
    def op(self) -> str:
        return "masked_linear"

    def __str__(self) -> str:
        return "masked_linear by " + ("adjacency" if self.adjacency is not None else "degrees")


def conv_spec(taps: ConvTaps) -> ConvSpec:
    """The cheapest mask type that lets live what lives; raises ProbeError where none does, or none saves work."""
    (kh, kw), (cy, cx) = taps.live.shape[2:], taps.centre
    alive = {(i - cy, j - cx) for i, j in taps.live.flatten(0, 1).any(0).nonzero().tolist()}
    side = 1 + 2 * max(abs(d) for tap in alive for d in tap)
    pad = (side // 2 - cx, side // 2 + 1 - kw + cx, side // 2 - cy, side // 2 + 1 - kh + cy)
    live, inside = F.pad(taps.live, pad), F.pad(torch.ones_like(taps.live), pad)
    covers = [(len(live_taps(kind, (side, side))), kind) for kind in MASK_TYPES]
    counts = {kind: count for count, kind in sorted(covers)}  # the cheapest first
    for kind, channels in product(counts, (1, 2, 3, 4)):
        if live.shape[0] % channels == 0 and side > 1:
            mask = conv_mask(kind, live.shape, image_channels=channels, device=live.device)
            if (mask & inside).equal(live) and counts[kind] < kh * kw + _is_cropped(taps):
                return ConvSpec(kind, channels, side, pad, None, taps.dilation)
    for kind, count in counts.items():
        if alive <= set(live_taps(kind, (side, side))):
            if count < kh * kw + _is_cropped(taps):
                return ConvSpec(kind, 1, side, pad, taps.live, taps.dilation)
            raise ProbeError(f"the mask that covers it has {count} taps, its own kernel {kh * kw}: nothing to save")
    ahead = tuple(step * d for step, d in zip(taps.dilation, max(alive), strict=True))
    raise ProbeError(f"it reads ahead, at (dy, dx) = {ahead}: no mask of a PixelCNN covers it")


def _is_cropped(taps: ConvTaps) -> bool:
    """True where such taps come of computing more than the image and cutting the rest off."""
    (kh, kw), (cy, cx) = taps.live.shape[2:], taps.centre
    return (2 * cy + 1, 2 * cx + 1) != (kh, kw)


def linear_spec(live: Tensor) -> LinearSpec:
    """Degrees that make the mask where it has them (its rows are nested sets), else the mask; raises ProbeError."""
    if live.all():
        raise ProbeError("none of its weights is dead: nothing to save")
    in_degrees = live.shape[0] - live.sum(0)  # seen by fewer outputs: of a higher degree
    out_degrees = torch.where(live, in_degrees, -1).amax(1)
    if not linear_mask(in_degrees, out_degrees).equal(live):
        return LinearSpec(live)
    (in_sorted, in_order), (out_sorted, out_order) = (d.sort(stable=True) for d in (in_degrees, out_degrees))
    in_place, out_place = in_sorted.equal(in_degrees), out_sorted.equal(out_degrees)
    orders = None if in_place else in_order, *((None, None) if out_place else (out_order, out_order.argsort()))
    return LinearSpec(None, in_degrees, out_degrees, in_sorted, out_sorted, *orders)


Spec = ConvSpec | LinearSpec
