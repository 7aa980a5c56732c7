"""The operations of a traced MADE: products, sums, activations, and the functions that it may end in."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...masks import linear_mask
from .made_units import Ended, Units, joined, total
from .made_values import Encoded, Values
from .writer import name_of


class Operations(Values):
    """A method for each operation."""

    def _op_celu(self, value: Any, alpha: float = 1.0) -> Units:
        if alpha != 1:
            self.refuse(f"celu of {alpha}")
        return self._activate(self._units(value), "elu")

    def _op_hardtanh(self, value: Any, low: float | None = -1.0, high: float | None = 1.0) -> Units:
        return self._clamped(self._units(value), low, high)

    def _op_clamp(self, value: Any, low: float | None = None, high: float | None = None) -> Units:
        return self._clamped(self._units(value), low, high)

    def _op_clamp_min(self, value: Any, low: float) -> Units:
        return self._clamped(self._units(value), low, None)

    def _op_clamp_max(self, value: Any, high: float) -> Units:
        return self._clamped(self._units(value), None, high)

    def _clamped(self, value: Units, low: float | None, high: float | None) -> Units:
        """``low + relu(v - low) - relu(v - high)``; below one bound alone ``high - relu(high - v)``."""
        if isinstance(low, Tensor) or isinstance(high, Tensor):
            self.refuse("a clamp between tensors")
        flat, one = replace(value, merged=False), torch.ones_like(value.bias)
        if low is not None and high is not None:
            both = self._activate(joined([flat.plus(-low * one), flat.plus(-high * one)]), "relu")
            eye = torch.eye(len(one)).to(self.like)
            own = both.product(torch.cat([eye, -eye], 1)).plus(low * one)
        elif low is not None:
            own = self._activate(flat.plus(-low * one), "relu").plus(low * one)
        elif high is not None:
            own = self._activate(flat.times(-one).plus(high * one), "relu").times(-one).plus(high * one)
        else:
            return value
        return replace(own, shape=value.shape, merged=value.merged)

    def _clamped_end(self, name: str, end: Any, *bounds: Any) -> Ended:
        """A sigmoid between two bounds is that of a value between two."""
        low, high = (*bounds, None)[:2] if name != "clamp_max" else (None, bounds[0])
        if not isinstance(end, Ended) or end.name != "sigmoid" or not ((end.gain == 1) & (end.offset == 0)).all():
            self.refuse(f"{name} of probabilities that are no sigmoid")
        own = [None if b is None or not 0 < b < 1 else math.log(b / (1 - b)) for b in (low, high)]
        return replace(end, value=self._clamped(end.value, own[0], own[1]))

    def _signed(self, value: Units, slope: Tensor) -> Units:
        """relu(v) - slope relu(-v)."""
        flat = replace(value, merged=False)
        both = self._activate(joined([flat, flat.times(-torch.ones_like(value.bias))]), "relu")
        count = len(value.bias)
        matrix = torch.cat([torch.eye(count).to(self.like), torch.diag(-slope)], 1)
        return replace(both.product(matrix), shape=value.shape, merged=value.merged)

    def _op_leaky_relu(self, value: Any, slope: float = 0.01) -> Units:
        value = self._units(value)
        return self._signed(value, torch.full_like(value.bias, slope))

    def _op_prelu(self, value: Any, slope: Tensor) -> Units:
        value = self._units(value)
        if slope.dim() == 1 and slope.numel() > 1:  # by channels, the first dimension behind the batch
            slope = slope.view(-1, *[1] * (len(value.shape) - 1))
        return self._signed(value, self._like(slope, value))

    _op__prelu_kernel = _op_prelu

    def _op_rrelu_with_noise(
        self, value: Any, noise: Any, low: float = 1 / 8, high: float = 1 / 3, training: bool = False, *_: Any
    ) -> Units:
        if training:
            self.refuse("rrelu in training mode")
        return self._op_leaky_relu(value, (low + high) / 2)

    def _op_native_batch_norm(self, value: Any, *args: Any) -> tuple[Units, None, None]:
        """Batch normalisation of the first dimension behind the batch, by running statistics."""
        weight, bias, mean, var, *training, _, eps = args
        value = self._units(value)
        if any(training) or value.merged:
            self.refuse(
                "batch normalisation by statistics of the batch" if any(training) else "one of other dimensions"
            )
        scale = (var + eps).rsqrt() * (1 if weight is None else weight)
        shift = (0 if bias is None else bias) - mean * scale
        scale, shift = (t.view(-1, *[1] * (len(value.shape) - 1)) for t in (scale, shift))
        return value.times(self._like(scale, value)).plus(self._like(shift, value)), None, None

    _op__native_batch_norm_legit_no_training = _op_native_batch_norm

    def _op_mm(self, value: Any, matrix: Tensor) -> Units:
        return self._units(value).product(matrix.T)

    def _op_addmm(self, bias: Tensor, value: Any, matrix: Tensor) -> Units:
        out = self._op_mm(value, matrix)
        return out.plus(self._like(bias, out))

    def _op_masked_linear(
        self, value: Any, weight: Tensor, bias: Any, ins: Any, outs: Any, adjacency: Any, activation: str, *_: Any
    ) -> Units:
        """The op of this package: of its own MADEs, and of layers that were accelerated."""
        live = linear_mask(ins, outs) if adjacency is None else adjacency
        out = self._op_mm(value, torch.where(live, weight, 0).T)
        out = out if bias is None else out.plus(self._like(bias, out))
        return out if activation == "none" else self._activate(out, activation)

    def _op_made(
        self, value: Any, weights: list, biases: list, degrees: list, cond: Any, activation: str, *_: Any
    ) -> Units:
        """All layers of a MADE of this package, in one op."""
        for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            value = self._op_masked_linear(value, weight, bias, degrees[i], degrees[i + 1], None, "none")
            value = value if i or cond is None else value.plus(self._like(cond, value))
            value = value if i + 1 == len(weights) else self._activate(value, activation)
        return value

    def _op_mv(self, value: Any, vector: Tensor) -> Units:
        return replace(self._units(value).product(vector[None]), shape=())

    def _reduced(self, value: Any, function: Callable[[Tensor], Tensor]) -> Units:
        """A linear function of the dimensions behind the batch; function: of ``[1, *shape, units]``."""
        value = self._units(value)
        if value.merged:
            self.refuse(f"{name_of(self.node)} of dimensions joined with the batch")
        out = {m: function(w.view(1, *value.shape, w.shape[1]))[0] for m, w in value.terms.items()}
        bias = function(value.bias.view(1, *value.shape, 1))[0, ..., 0]
        return Units({m: w.reshape(-1, w.shape[-1]) for m, w in out.items()}, bias.flatten(), tuple(bias.shape))

    def _op_sum(self, value: Any, dims: Any = None, keepdim: bool = False, dtype: Any = None) -> Units:
        return self._reduced(value, lambda w: w.sum(self._behind(dims, w.dim() - 1), keepdim))

    def _op_mean(self, value: Any, dims: Any = None, keepdim: bool = False, dtype: Any = None) -> Units:
        return self._reduced(value, lambda w: w.mean(self._behind(dims, w.dim() - 1), keepdim))

    def _op_cumsum(self, value: Any, dim: int, dtype: Any = None) -> Units:
        return self._reduced(value, lambda w: w.cumsum(self._behind([dim], w.dim() - 1)[0]))

    def _behind(self, dims: Any, rank: int) -> list[int]:
        own = [dims] if isinstance(dims, int) else dims
        own = [d % rank for d in own or [0]]
        if 0 in own:
            self.refuse(f"{name_of(self.node)} over the batch")
        return own

    def _op_add(self, a: Any, b: Any, alpha: float = 1) -> Units:
        if not isinstance(a, Units | Encoded):
            b = self._units(b)
            return b.times(torch.full_like(b.bias, alpha)).plus(self._like(a, b))
        a = self._units(a)
        if not isinstance(b, Units | Encoded):
            return a.plus(alpha * self._like(b, a))
        b = self._units(b)
        if b.shape != a.shape or b.merged != a.merged:
            self.refuse(f"a sum of {list(a.shape)} and {list(b.shape)}")
        return total([a, b.times(torch.full_like(b.bias, alpha))])

    def _op_sub(self, a: Any, b: Any, alpha: float = 1) -> Units:
        if isinstance(b, Units | Encoded):
            b = self._units(b)
            b = b.times(torch.full_like(b.bias, -alpha))
            return self._op_add(a, b) if isinstance(a, Units | Encoded) else b.plus(self._like(a, b))
        return self._op_add(a, b, -alpha)

    def _op_rsub(self, a: Any, b: Any, alpha: float = 1) -> Units:
        return self._op_sub(b, a, alpha)

    def _op_mul(self, a: Any, b: Any) -> Units:
        value, by = (a, b) if isinstance(a, Units | Encoded) else (b, a)
        if isinstance(by, Units | Encoded):
            self.refuse("a product of two functions of x")
        value = self._units(value)
        return value.times(self._like(by, value))

    def _op_div(self, value: Any, by: Any) -> Units:
        return self._op_mul(value, 1 / by)

    def _op_neg(self, value: Any) -> Units:
        return self._op_mul(value, -1.0)

    def _end(self, value: Any, name: str, function: Callable[[Tensor], Tensor]) -> Ended:
        value = self._units(value)
        if value.merged:
            self.refuse(f"{name} of dimensions joined with the batch")
        count = len(value.bias)
        one = torch.ones_like(value.bias)
        index = torch.arange(count, device="cpu").view(value.shape)
        return Ended(value, name, function, index, one, torch.zeros_like(one), self.node)

    def _op_sigmoid(self, value: Any) -> Ended:
        """The probabilities of a network's end, whose logits are drawn from."""
        return self._end(value, "sigmoid", torch.sigmoid)

    def _op__softmax(self, value: Any, dim: int, half_to_float: bool) -> Ended:
        return self._grouped(self._end(value, "softmax", lambda v: F.softmax(v, dim)), dim)

    def _op__log_softmax(self, value: Any, dim: int, half_to_float: bool) -> Ended:
        return self._grouped(self._end(value, "log_softmax", lambda v: F.log_softmax(v, dim)), dim)

    def _grouped(self, end: Ended, dim: int) -> Ended:
        dim = dim % (end.index.dim() + 1) - 1
        if dim < 0:
            self.refuse(f"{end.name} over the batch")
        return replace(end, groups=end.index.narrow(dim, 0, 1).expand_as(end.index).flatten())

    @staticmethod
    def _is_by_constant(args: Any) -> bool:
        return len(args) == 2 and sum(isinstance(a, Encoded | Units | Ended) for a in args) == 1

    def _scaled_end(self, name: str, a: Any, b: Any) -> Ended:
        """A constant times probabilities, plus a constant."""
        end, by = (a, b) if isinstance(a, Ended) else (b, a)
        plain = name.removesuffix("_")
        shaped = Units({}, end.offset, tuple(end.index.shape))
        constant = self._like(by, shaped)
        if plain in ("mul", "div"):
            constant = constant if plain == "mul" else 1 / constant
            return replace(end, gain=end.gain * constant, offset=end.offset * constant)
        if plain == "rsub" or (plain == "sub" and end is b):
            return replace(end, gain=-end.gain, offset=constant - end.offset)
        return replace(end, offset=end.offset + (constant if plain == "add" else -constant))
