"""A stage of a sampling program over its part of a step: rows gathered, one product a source, the activation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import activations
from ...plan import Plan, Stage
from .activate import ACTIVATE
from .pixelcnn_places import Indices, Parts, Places

LARGE = 1 << 23  # multiply-adds of a product from which on a convolution's overhead pays


class Reads(Protocol):
    """What a stage reads of a buffer in each of its parts: ``[pixels * B, C]``."""

    def __getitem__(self, part: int, /) -> Tensor: ...


class Gathered:
    """Rows of a cache ``[places * B, C]`` that lie apart, those of all taps of a pixel side by side."""

    def __init__(self, cache: Tensor, indices: Sequence[Tensor], taps: int) -> None:
        self._cache, self._indices, self._depth = cache, indices, taps * cache.shape[1]

    def __getitem__(self, part: int) -> Tensor:
        return self._cache.index_select(0, self._indices[part]).view(-1, self._depth)


class Memory:
    """The caches of a run, ``[(H W + 1) * B, C]`` of each buffer, and the context in the order of places."""

    def __init__(
        self, plan: Plan, places: Places, indices: Indices, context: Tensor | None, batch: int, like: Tensor
    ) -> None:
        self.places, self.indices, self.batch = places, indices, batch
        channels = [plan.image_channels, *(stage.out_channels for stage in plan.stages)]
        own = [True, *(stage.joins < 0 for stage in plan.stages)]
        rows = (places.n_pixels + 1) * batch
        self.caches = [like.new_empty(rows if is_own else 0, c) for c, is_own in zip(channels, own, strict=True)]
        # Of the image channels are read that are not drawn yet, attention multiplies pixels that it does not see by 0.
        read = {source.buffer for stage in plan.stages if stage.kind == "attend" for source in stage.sources}
        for buffer, cache in enumerate(self.caches):
            cache[0 if buffer in {0} | read else rows - batch :].zero_()
        self.context = context  # [B, D], or of a map [places, B, D + 1]: a bias is the weight of the last channel, 1
        if context is not None and context.dim() == 4:
            self.context = F.pad(context.flatten(2).permute(2, 0, 1), (0, 1), value=1).index_select(0, indices.pixels)

    def stretches(self, buffer: int, parts: Parts) -> list[Tensor]:
        """The rows of a buffer at the pixels of each part, a view."""
        counts = [count * self.batch for count in parts.counts]
        return list(self.caches[buffer][: sum(counts)].split(counts))


class StageRun:
    """A stage on the memory of a run; a call computes one part.

    Args:
        weights: as `pixelcnn_pack` of this row gives them.
    """

    def __init__(self, plan: Plan, index: int, weights: Sequence[Tensor], memory: Memory) -> None:
        stage, self._parts = plan.stages[index], memory.places.stages[index]
        self._cache, self._own = memory.caches[stage.writes(index)], memory.indices.own[index]
        self._outs = memory.stretches(stage.writes(index), self._parts) if self._own is None else None
        taps = memory.indices.sources[index]
        sources = [
            self._reads(memory, source.buffer, rows, len(source.taps))
            for source, rows in zip(stage.sources, taps, strict=True)
        ]
        self._pre: Callable[[int, Tensor | None], Tensor]
        if stage.kind == "attend":
            self._pre = _Attention(stage, self._parts, sources[0], weights[0], memory)
        elif stage.kind == "norm":
            self._pre = _Norm(sources[0], *weights)
        else:
            self._pre = _Sum(stage, self._parts, sources, weights, memory)
        self._factor, self._residual = (
            None if other < 0 else self._reads(memory, other, self._own, 1) for other in (stage.factor, stage.residual)
        )
        self._in_place = activations.columns(stage.activation) == 1
        self._activate = ACTIVATE[stage.activation]

    def _reads(self, memory: Memory, buffer: int, rows: Sequence[Tensor] | None, taps: int) -> Reads:
        return memory.stretches(buffer, self._parts) if rows is None else Gathered(memory.caches[buffer], rows, taps)

    def __call__(self, part: int) -> None:
        target = None if self._outs is None else self._outs[part]
        out = self._activate(self._pre(part, target if self._in_place else None), target)
        if self._factor is not None:
            out.mul_(self._factor[part])
        if self._residual is not None:
            out.add_(self._residual[part])
        if self._own is not None:
            self._cache.index_copy_(0, self._own[part], out)
        elif target is not None and out is not target:
            target.copy_(out)


class _Sum:
    """``bias + V context + sum over sources, taps of W[:, :, tap] buffer[. + tap]``, ``[pixels * B, P]``."""

    def __init__(
        self, stage: Stage, parts: Parts, sources: Sequence[Reads], weights: Sequence[Tensor], memory: Memory
    ) -> None:
        products, bias = list(zip(sources, weights, strict=False)), weights[len(sources)]
        self._biases: Sequence[Tensor | None] = [bias] * len(parts.counts)
        if memory.context is not None and stage.context_dim:
            if memory.context.dim() == 2:
                self._biases = _biases_of_rows(torch.addmm(bias, memory.context, weights[-1]), parts)
            else:  # a product of its own takes less time than the copy of a bias for every pixel
                self._biases = [None] * len(parts.counts)
                products.append((_of_map(memory.context, parts), torch.cat([weights[-1], bias[None]])))
        self._first, *self._others = sorted(products, key=lambda product: -product[1].shape[0])  # the deepest first
        weight, work = self._first[1], memory.batch * self._first[1].numel()
        has_onednn = bias.device.type == "cpu" and bias.dtype == torch.float32 and torch.backends.mkldnn.is_available()
        self._large = [has_onednn and count * work >= LARGE for count in parts.counts]
        self._kernel = weight.T[:, :, None, None].contiguous() if any(self._large) else weight

    def __call__(self, part: int, out: Tensor | None) -> Tensor:
        (reads, weight), bias = self._first, self._biases[part]
        if self._large[part]:
            pre = _convolved(reads[part], self._kernel)
            pre = pre if bias is None else pre.add_(bias)
        elif bias is None:
            pre = torch.mm(reads[part], weight, out=out)
        else:
            pre = torch.addmm(bias, reads[part], weight, out=out)
        for reads, weight in self._others:
            pre.addmm_(reads[part], weight)
        return pre


def _convolved(rows: Tensor, kernel: Tensor) -> Tensor:
    """The product of rows ``[N, K]`` by a kernel ``[P, K, 1, 1]``: oneDNN's, where that of matrices is MKL's.

    On processors that are not Intel's it is up to twice as fast.
    """
    pixels = rows.view(1, len(rows), 1, rows.shape[1]).permute(0, 3, 1, 2)
    return F.conv2d(pixels, kernel).permute(0, 2, 3, 1).reshape(len(rows), -1)


def _biases_of_rows(rows: Tensor, parts: Parts) -> list[Tensor]:
    """A bias for each sample ``[B, P]`` at the pixels of each part: ``[pixels * B, P]``, or one row for all."""
    if len(rows) == 1:
        return [rows] * len(parts.counts)
    wide = rows.repeat(max(parts.counts, default=0), 1)
    return [wide[: count * len(rows)] for count in parts.counts]


def _of_map(context: Tensor, parts: Parts) -> list[Tensor]:
    """The context at the pixels of each part, ``[pixels * B, D]``."""
    _, batch, _ = context.shape
    own = context[: len(parts.places)] if parts.is_stretch else context[parts.places.to(context.device)]
    return list(own.flatten(0, 1).split([count * batch for count in parts.counts]))


class _Norm:
    """``bias + gain (h - mean h) / sqrt(var h + eps)``, h the channels at a pixel."""

    def __init__(self, h: Reads, gain: Tensor, bias: Tensor, eps: Tensor) -> None:
        self._h, self._gain, self._bias, self._eps = h, gain, bias, float(eps)

    def __call__(self, part: int, out: Tensor | None) -> Tensor:
        return F.layer_norm(self._h[part], self._gain.shape, self._gain, self._bias, self._eps)


class _Attention:
    """``sum over pixels p that are seen of softmax(scale q . k[p]) v[p]``, by heads; 0 where none is."""

    def __init__(self, stage: Stage, parts: Parts, q: Reads, scale: Tensor, memory: Memory) -> None:
        self._q, self._scale = q, scale
        self._heads, self._batch = stage.heads, memory.batch
        self._k, self._v = (memory.caches[source.buffer] for source in stage.sources[1:])
        self._pixels = memory.indices.pixels
        last, self._ends = memory.places.seen(parts, stage.sources[1].taps[0])
        self._last = last.to(self._pixels.device).split(parts.counts)

    def _by_head(self, rows: Tensor, places: int) -> Tensor:
        """``[B * heads, places, channels of a head]``, a view of the first places."""
        batch, heads = self._batch, self._heads
        return rows[: places * batch].view(places, batch * heads, rows.shape[1] // heads).transpose(0, 1)

    def __call__(self, part: int, out: Tensor | None) -> Tensor:
        end, last = self._ends[part], self._last[part]
        q, k, v = self._by_head(self._q[part], len(last)), self._by_head(self._k, end), self._by_head(self._v, end)
        hidden = self._pixels[:end] > last[:, None]
        weights = torch.bmm(q, k.mT).mul_(self._scale).masked_fill_(hidden, -torch.inf).softmax(2)
        summed = torch.bmm(weights.masked_fill_(hidden, 0), v)  # of a pixel that sees none the weights were NaN
        return summed.transpose(0, 1).reshape(len(last) * self._batch, self._v.shape[1])
