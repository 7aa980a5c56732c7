"""Activations of a traced decoder: stages of a program, or sums of stages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...plan import ACTIVATIONS
from .affine import Affine, Value, aligned, stacked, total
from .axes import grid
from .scales import Scales
from .writer import Bounded


class Activations(Scales):
    """A method for each activation."""

    def _hinges(self, x: Affine, at: Sequence[tuple[float, int, Tensor | float]]) -> Affine:
        """``sum of c relu(sign (x - knot))`` over (knot, sign, c): one stage of as many channels each."""
        parts, factors = [], []
        for knot, sign, factor in at:
            own = x.scaled(torch.full_like(x.bias, sign))
            parts.append(self._plus(own, torch.full((1, 1, 1), -sign * float(knot)).to(self.like)))
            factors.append(torch.as_tensor(factor).to(self.like).expand(x.channels).diag())
        return self._stage(stacked(parts), "relu").through(torch.cat(factors, 1))

    def _op_relu(self, x: Value) -> Value:
        return Value(self._stage(x.affine, "relu"), x.axes)

    def _op_elu(self, x: Value, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Value:
        """``elu_alpha = alpha elu + (1 - alpha) relu``; SELU is a multiple of it."""
        if input_scale != 1:
            self._fail("ELU of input scale 1", f"scale {input_scale}")
        out = self._stage(x.affine, "elu")
        if alpha != 1:
            positive = self._stage(x.affine, "relu").scaled(torch.full_like(x.affine.bias, 1 - alpha))
            out = total(out.scaled(torch.full_like(out.bias, alpha)), positive)
        return Value(out if scale == 1 else out.scaled(torch.full_like(out.bias, scale)), x.axes)

    def _op_leaky_relu(self, x: Value, slope: float = 0.01) -> Value:
        own = self._settle(x.affine)
        return Value(
            total(
                self._stage(own, "relu").scaled(torch.full_like(own.bias, 1 - slope)),
                own.scaled(torch.full_like(own.bias, slope)),
            ),
            x.axes,
        )

    def _op__prelu_kernel(self, x: Value, slope: Tensor) -> Value:
        """``relu(x) - slope relu(-x)`` with a slope per channel."""
        if isinstance(slope, Tensor):
            factor = self._constant(slope, x.axes)
            if factor.shape[1:] != (1, 1):
                self._fail("PReLU with a slope per channel", f"one of {list(slope.shape)}")
            return Value(self._hinges(x.affine, [(0, 1, 1.0), (0, -1, -factor[:, 0, 0])]), x.axes)
        self._fail("PReLU with constant slopes", "slopes that depend on the input")

    def _op_prelu(self, x: Value, slope: Tensor) -> Value:
        shape = [1] * len(x.axes)
        if slope.numel() > 1:
            shape[1] = slope.numel()
        return self._op__prelu_kernel(x, slope.view(shape))

    def _op_hardtanh(self, x: Value, low: float = -1.0, high: float = 1.0) -> Value:
        return self._op_clamp(x, low, high)

    def _op_clamp(self, x: Any, low: Any = None, high: Any = None) -> Any:
        """``low + relu(x - low) - relu(x - high)``, or one side of it; of a sigmoid the sigmoid of such a one."""
        if any(isinstance(bound, Tensor) for bound in (low, high)):
            self._fail("clamps between two numbers", "tensors")
        if isinstance(x, Bounded):
            if x.function != "sigmoid" or not x.is_plain:
                return self._op_clamp(self._open(x), low, high)
            bounds = [None if b is None or not 0 < b < 1 else math.log(b / (1 - b)) for b in (low, high)]
            if (low is None or low < 1) and (high is None or high > 0):
                return replace(x, value=self._op_clamp(x.value, *bounds))
            self._fail("clamps that leave something of a sigmoid", f"one between {low} and {high}")
        if low is None and high is None:
            return x
        if low is None:  # min(x, high) = high - relu(high - x)
            out, start = self._hinges(x.affine, [(high, -1, -1.0)]), high
        else:
            out = self._hinges(x.affine, [(low, 1, 1.0), *([] if high is None else [(high, 1, -1.0)])])
            start = low
        return Value(self._plus(out, torch.full((1, 1, 1), float(start)).to(self.like)), x.axes)

    def _op_clamp_min(self, x: Any, low: float) -> Any:
        return self._op_clamp(x, low)

    def _op_clamp_max(self, x: Any, high: float) -> Any:
        return self._op_clamp(x, None, high)

    def _op_relu6(self, x: Value) -> Value:
        return self._op_clamp(x, 0.0, 6.0)

    def _op_hardsigmoid(self, x: Value) -> Value:
        """``relu6(x + 3) / 6``."""
        out = self._hinges(x.affine, [(-3.0, 1, 1 / 6), (3.0, 1, -1 / 6)])
        return Value(out, x.axes)

    def _op_threshold(self, x: Value, threshold: float, value: float) -> Value:
        if threshold != value:
            self._fail("thresholds that the value equals", f"{threshold} and {value}")
        return self._op_clamp(x, threshold)

    def _op_abs(self, x: Value) -> Value:
        return Value(self._hinges(x.affine, [(0, 1, 1.0), (0, -1, 1.0)]), x.axes)

    def _op_softshrink(self, x: Value, by: float = 0.5) -> Value:
        return Value(self._hinges(x.affine, [(by, 1, 1.0), (-by, -1, -1.0)]), x.axes)

    def _op_celu(self, x: Value, alpha: float = 1.0) -> Value:
        """``alpha elu(x / alpha)``."""
        out = self._stage(x.affine.scaled(torch.full_like(x.affine.bias, 1 / alpha)), "elu")
        return Value(out.scaled(torch.full_like(out.bias, alpha)), x.axes)

    def _op_rrelu_with_noise(
        self, x: Value, noise: Any, low: float = 1 / 8, high: float = 1 / 3, training: bool = False, *_: Any
    ) -> Value:
        if training:
            self._fail("operations that give the same in every call", "rrelu in training mode")
        return self._op_leaky_relu(x, (low + high) / 2)

    # Activations that a plan may have

    def _by_name(self, x: Value, name: str, spelled: str) -> Value:
        if name not in ACTIVATIONS:
            self._fail(f"activations that a program has: {', '.join(ACTIVATIONS[1:])}, and sums of hinges", spelled)
        return Value(self._stage(x.affine, name), x.axes)

    def _op_silu(self, x: Value) -> Value:
        return self._by_name(x, "silu", "silu")

    def _op_gelu(self, x: Value, approximate: str = "none") -> Value:
        return self._by_name(x, "gelu" if approximate == "none" else "gelu_tanh", "gelu")

    def _op_softplus(self, x: Value, beta: float = 1, threshold: float = 20) -> Value:
        """``softplus_beta(x) = softplus(beta x) / beta``; above the threshold both are x but for less than 1e-8."""
        if threshold < 15:
            self._fail("softplus that is x from 15 on, or later", f"threshold {threshold}")
        if beta == 1:
            return self._by_name(x, "softplus", "softplus")
        inside = Value(x.affine.scaled(torch.full_like(x.affine.bias, beta)), x.axes)
        out = self._by_name(inside, "softplus", "softplus")
        return Value(out.affine.scaled(torch.full_like(out.affine.bias, 1 / beta)), x.axes)

    def _op_glu(self, x: Value, dim: int = -1) -> Value:
        a, b = self._op_chunk(x, 2, dim)
        assert isinstance(a, Value) and isinstance(b, Value)
        return self._gated(a, Bounded("sigmoid", b, *self._one()))

    def _gated(self, a: Value, gate: Bounded) -> Value:
        """``a sigmoid(b)``."""
        if "glu" not in ACTIVATIONS:
            self._fail("products of tanh and sigmoid, or with a constant", "a product with a sigmoid")
        own, other, axes = aligned(a, gate.value)
        return Value(self._stage(stacked((own, other)), "glu"), axes)

    # Halves of a gate, and ends of a decoder

    def _one(self) -> tuple[Tensor, Tensor]:
        return self.like.new_ones(1, 1, 1), self.like.new_zeros(1, 1, 1)

    def _op_tanh(self, x: Value) -> Bounded:
        return Bounded("tanh", x, *self._one())

    def _op_sigmoid(self, x: Value) -> Bounded:
        return Bounded("sigmoid", x, *self._one())

    def _softmax(self, x: Value, function: str, dim: int) -> Bounded:
        dim %= len(x.axes)
        if x.letter(dim) != "C":
            self._fail("softmax over levels", f"one over dimension {dim}")
        x = x.without_copies()
        rows = grid(x.axes)
        groups = rows.narrow(dim, 0, 1).expand(rows.shape).flatten()
        return Bounded(function, x, *self._one(), groups)

    def _op__softmax(self, x: Value, dim: int, half: bool = False) -> Bounded:
        return self._softmax(x, "softmax", dim)

    def _op__log_softmax(self, x: Value, dim: int, half: bool = False) -> Bounded:
        return self._softmax(x, "log_softmax", dim)
