"""Causal self-attention over the pixels of an image, however its scores are scaled, masked and summed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from .affine import Affine, Value, total
from .axes import AxesError, axis_of, channels_of, is_channels
from .raster import Raster
from .scores import Scores, seen_by
from .writer import MOVES

RULE = "attention as a softmax of q . k over the pixels before, times v"


class Attention(Raster):
    """A method for each operation on scores, or on the weights of their softmax; on other values as before."""

    def _handler(self, name: str, args: Any, kwargs: Any) -> Callable[..., Any]:
        if name in MOVES or not any(isinstance(leaf, Scores) for leaf in tree_leaves((args, kwargs))):
            return super()._handler(name, args, kwargs)
        handler: Callable[..., Any] | None = getattr(self, f"_scores_{name}", None)
        if handler is None:
            self._fail(RULE, f"{name} of scores")
        return handler

    # Products

    def _op_bmm(self, a: Any, b: Any) -> Any:
        if isinstance(a, Value) and isinstance(b, Value):
            return self._scores_of(a, b)
        return super()._op_bmm(a, b)

    def _op_baddbmm(self, bias: Any, a: Any, b: Any, beta: float = 1, alpha: float = 1) -> Any:
        scores = self._op_bmm(a, b)
        if not isinstance(scores, Scores):
            return super()._op_baddbmm(bias, a, b, beta, alpha)
        scores = self._scores_mul(scores, alpha)
        return self._scores_add(scores, bias, beta) if beta else scores

    def _scores_of(self, q: Value, k: Value) -> Scores:
        """``[B heads, pixels, channels]`` times ``[B heads, channels, pixels]``."""
        q, k = q.without_copies(), k.without_copies()
        heads, _, contracted = q.axes
        own = {letter for letter, _ in heads} <= {"B", "C"} and heads == k.axes[0]
        whole = self._are_pixels(q, 1) and self._are_pixels(k, 2) and is_channels(contracted) and is_channels(k.axes[1])
        if not own or not whole:
            self._fail(RULE, f"a product of {self._spelled(q)} and {self._spelled(k)}")
        count, one = prod(self.image), self.like.new_ones(1, 1, 1)
        axes = (heads, axis_of("H", count), axis_of("W", count))
        return Scores(axes, q.affine, k.affine, one, torch.zeros_like(one))

    def _are_pixels(self, x: Value, dim: int) -> bool:
        """True where a dimension is all pixels in raster order, two of them or more."""
        raster = axis_of("H", self.image[0]) + axis_of("W", self.image[1])
        return x.axes[dim] == raster != () and x.affine.size == self.image and x.affine.stride == (1, 1)

    def _scores_bmm(self, a: Any, b: Any) -> Value:
        """Weights times v ``[B heads, pixels, channels]``, or v ``[B heads, channels, pixels]`` times weights."""
        scores, v, turned = (a, b, False) if isinstance(a, Scores) else (b, a, True)
        keys, pixels, channels = (1, 2, 1) if turned else (2, 1, 2)
        if scores.weight is None:
            self._fail(RULE, "a product of scores without a softmax")
        if not isinstance(v, Value) or scores.axes[keys] != axis_of("W", prod(self.image)):
            self._fail(RULE, "another product of weights")
        v = v.without_copies()
        if v.axes[0] != scores.axes[0] or not self._are_pixels(v, pixels) or not is_channels(v.axes[channels]):
            self._fail(RULE, f"a product of weights with {self._spelled(v)}")
        return Value(self._attended(scores, v.affine), v.axes)

    def _attended(self, scores: Scores, v: Affine) -> Affine:
        """Appends the stage that attends."""
        try:
            seen = seen_by(scores, prod(self.image))
        except AxesError as error:
            self._fail(RULE, error)
        q, scale = scores.q, seen.scale
        if len(scale) > 1:  # another one for each head
            q, scale = q.scaled(scale.repeat_interleave(q.channels // len(scale))), scale.new_ones(1)
        q, k, v = (self._settle(h) for h in (q, scores.k, v))
        index = self.program.attend(q.buffer, k.buffer, v.buffer, scores.heads, float(scale), itself=seen.itself)
        eye = v.bias.new_ones(v.channels).diag()
        out = Affine({(index, (0, 0)): eye}, torch.zeros_like(v.bias), self.image)
        if seen.first and not seen.itself:  # its result is its own value
            first = torch.zeros(1, *self.image).to(self.like)
            first[0, 0, 0] = 1
            out = total(out, self._times(v, first))
        factor = seen.factor.repeat_interleave(v.channels // len(seen.factor), 0).unflatten(1, self.image)
        first = factor[:, :1, :1]
        return self._times(out, first if (factor == first).all() else factor)

    def _attention(self, q: Value, k: Value, v: Value, mask: Tensor | None, causal: bool, scale: float | None) -> Value:
        """Attention of ``[B, heads, pixels, channels]``; who sees nothing gets 0."""
        flat = [self._joined(h) for h in (q, k, v)]
        turned = self._op_transpose(flat[1], 1, 2)
        assert isinstance(turned, Value)
        channels = channels_of(flat[0].axes[2])
        scores = self._scores_mul(self._scores_of(flat[0], turned), channels**-0.5 if scale is None else scale)
        own = replace(scores, axes=(*q.axes[:2], *scores.axes[1:]))  # of four dimensions, as the mask
        if mask is not None:
            own = self._scores_add(own, mask)
        if causal:
            own = self._scores_add(own, torch.full(scores.shape[1:], -torch.inf).triu(1))
        out = self._scores_bmm(replace(own.softmax().without_lonely(), axes=scores.axes), flat[2])
        return Value(out.affine, (*q.axes[:2], *out.axes[1:]))

    @staticmethod
    def _joined(x: Value) -> Value:
        x = x.without_copies()
        return Value(x.affine, (x.axes[0] + x.axes[1], *x.axes[2:]))

    def _op__scaled_dot_product_flash_attention_for_cpu(
        self,
        q: Value,
        k: Value,
        v: Value,
        dropout: float = 0.0,
        causal: bool = False,
        *,
        attn_mask: Any = None,
        scale: float | None = None,
    ) -> tuple[Any, ...]:
        return self._attention(q, k, v, attn_mask, causal, scale), None

    def _op__scaled_dot_product_flash_attention(
        self, q: Value, k: Value, v: Value, dropout: float = 0.0, causal: bool = False, *_: Any, scale: Any = None
    ) -> tuple[Any, ...]:
        return self._attention(q, k, v, None, causal, scale), *[None] * 8

    def _op__scaled_dot_product_efficient_attention(
        self, q: Value, k: Value, v: Value, bias: Any, *options: Any, scale: float | None = None
    ) -> tuple[Any, ...]:
        causal = bool(options[2]) if len(options) > 2 else False
        return self._attention(q, k, v, bias, causal, scale), *[None] * 8

    _op__scaled_dot_product_cudnn_attention = _op__scaled_dot_product_efficient_attention

    # What scores are combined with

    def _op_select(self, x: Any, dim: int, index: int) -> Any:
        """The scores of one image are those of each, for a mask that is made like them."""
        if isinstance(x, Scores) and {letter for letter, _ in x.axes[dim]} == {"B"}:
            return replace(x, axes=(*x.axes[:dim], *x.axes[dim:][1:]))
        return super()._op_select(x, dim, index)

    def _scores_mul(self, a: Any, b: Any) -> Scores:
        scores, other = (a, b) if isinstance(a, Scores) else (b, a)
        by = self._constant_beside(scores, other)
        if scores.weight is not None:
            return replace(scores, weight=scores.weight * by)
        return replace(scores, gain=scores.gain * by, bias=scores.bias * by)

    def _scores_div(self, a: Any, b: Any) -> Scores:
        if isinstance(b, Scores):
            self._fail(RULE, "a quotient by scores")
        return self._scores_mul(a, 1 / torch.as_tensor(b, dtype=self.like.dtype))

    def _scores_add(self, a: Any, b: Any, alpha: float = 1) -> Scores:
        scores, other = (a, b) if isinstance(a, Scores) else (b, a)
        if scores.weight is not None:
            self._fail(RULE, "a sum with its weights")
        if scores is b and alpha != 1:
            scores, alpha = self._scores_mul(scores, alpha), 1
        return replace(scores, bias=scores.bias + alpha * self._constant_beside(scores, other))

    def _scores_sub(self, a: Any, b: Any, alpha: float = 1) -> Scores:
        return self._scores_add(a, b, -alpha) if isinstance(a, Scores) else self._scores_add(self._scores_neg(b), a)

    def _scores_rsub(self, a: Any, b: Any, alpha: float = 1) -> Scores:
        return self._scores_add(self._scores_mul(a, -alpha), b)

    def _scores_neg(self, a: Scores) -> Scores:
        return self._scores_mul(a, -1.0)

    def _scores_masked_fill(self, a: Scores, mask: Any, value: Any) -> Scores:
        return self._filled(a, self._constant_beside(a, mask) != 0, self._constant_beside(a, value))

    def _scores_where(self, condition: Any, a: Any, b: Any) -> Scores:
        scores, value = (a, b) if isinstance(a, Scores) else (b, a)
        at = self._constant_beside(scores, condition) != 0
        return self._filled(scores, ~at if scores is a else at, self._constant_beside(scores, value))

    def _filled(self, scores: Scores, at: Tensor, value: Tensor) -> Scores:
        if scores.weight is None:
            return replace(scores, gain=scores.gain.where(~at, 0), bias=torch.where(at, value, scores.bias))
        if value.any():
            self._fail(RULE, "weights that are filled with other numbers than 0")
        return replace(scores, weight=scores.weight.where(~at, 0))

    def _constant_beside(self, scores: Scores, other: Any) -> Tensor:
        """A constant as ``[heads, N, N]``, or of length 1 along what it is the same along."""
        if not isinstance(other, Tensor | int | float | bool):
            self._fail(f"{RULE}; beside scores constants", "what depends on the input")
        return self._constant(other, scores.axes)

    def _scores__softmax(self, x: Scores, dim: int, half: bool = False) -> Scores:
        count = prod(self.image)
        if x.weight is not None or x.axes[dim] not in (axis_of("H", count), axis_of("W", count)):
            self._fail(RULE, f"a softmax of scores over dimension {dim}")
        return (x if x.axes[dim] == axis_of("W", count) else x.turned()).softmax()

    def _scores__safe_softmax(self, x: Scores, dim: int, dtype: Any = None) -> Scores:
        return self._scores__softmax(x, dim).without_lonely()

    def _scores_nan_to_num(self, x: Scores, nan: float | None = None, *_: Any) -> Scores:
        if x.weight is None or nan:
            self._fail(RULE, "nan_to_num of scores, or to other numbers than 0")
        return x.without_lonely()
