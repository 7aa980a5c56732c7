"""The steps of a flow prior, by kernels whose rows have the same bits in any batch.

A step gives shift and log_scale of every dimension of v, each a function of the dimensions before it. Whoever knows
all of v asks for all of them; whoever finds v dimension after dimension starts a `Run`. The bits are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..backends import cpu
from ..layers import MADE, MaskedLinear
from ..models.conv_flow import ConvFlow, ConvStep, Transform
from ..models.vlae import VLAE
from ..reference.arguments import Mask
from ..sampling import PixelCNNSampler
from .numbers import Floats, exp

_MOST = np.finfo(np.float32).max
_Both = tuple[Floats, Floats]  # shift and log_scale


class Step:
    """step(v ``[B, D]``, which): shift and log_scale of the dimensions that are wanted, all of them or one."""

    dims: int

    def __call__(self, v: Tensor, which: int | slice = slice(None)) -> _Both:
        raise NotImplementedError

    def start(self, n: int) -> Run:
        """A run of n rows."""
        return Run(self, n)


class Run:
    """The dimensions of n rows in turn: `params` are of the next one, `put` takes its values."""

    def __init__(self, step: Step, n: int) -> None:
        self.step, self.v, self.at = step, torch.zeros(n, step.dims), 0

    def params(self) -> _Both:
        """shift and log_scale ``[n]``, by a pass over all of v."""
        return self.step(self.v, self.at)

    def put(self, values: Tensor) -> None:
        self.v[:, self.at] = values
        self.at += 1


def walk(step: Step, n: int, value: Callable[[int, Floats, Floats], Floats]) -> Tensor:
    """``x_i = value(i, shift, factor) factor + shift`` ``[n, D]``, dimension after dimension.

    value: is asked for the output of the step, of all rows of a dimension, given its shift and factor ``e^log_scale``.
    """
    run = step.start(n)
    for i in range(step.dims):
        shift, log_scale = run.params()
        factor = exp(log_scale)
        run.put(floats(value(i, shift, factor) * factor + shift))
    return run.v


def inverse(step: Step, y: Floats) -> Tensor:
    """The x ``[B, D]`` that a step maps to y."""
    return walk(step, len(y), lambda i, shift, factor: y[:, i])


def steps_of(model: VLAE, isa: str) -> list[Step]:
    """The steps of a model's prior, by kernels of an instruction set."""
    prior = model.prior
    if isinstance(prior, ConvFlow):
        return [ConvolutionStep(step, prior.map_shape, isa, i % 2) for i, step in enumerate(prior.steps)]
    return [MadeStep(made, isa) for made in prior.steps] if prior is not None else []


class ConvolutionStep(Step):
    """A step over a map of this shape, by the sampler: parameters of a pixel from the ones before it.

    turned: the order of pixels is, which is the step's own affair, and that of channels with it.
    """

    def __init__(self, step: nn.Module, shape: tuple[int, int, int], isa: str, turned: int) -> None:
        assert isinstance(step, ConvStep)
        self.sampler = PixelCNNSampler(Transform(step, shape), backend="cpu", isa=isa)
        self.shape, self.turned, self.dims = shape, turned, shape[0] * shape[1] * shape[2]

    def __call__(self, v: Tensor, which: int | slice = slice(None)) -> _Both:
        channels = self.shape[0]
        found = self.sampler.params_of(self._to_map(v.nan_to_num()), None)
        shift, log_scale = (self._in_turn(part)[:, which] for part in (found[:, :channels], found[:, channels:]))
        return _finite(shift), _finite(log_scale)

    def _to_map(self, v: Tensor) -> Tensor:
        channels, height, width = self.shape
        found = v.view(len(v), height, width, channels)
        return (found.flip(3) if self.turned else found).permute(0, 3, 1, 2).contiguous()

    def _in_turn(self, of_map: Tensor) -> NDArray[np.float32]:
        found = of_map.permute(0, 2, 3, 1)
        return (found.flip(3) if self.turned else found).flatten(1).numpy()


class _Layer(NamedTuple):
    """A masked layer with its degrees, hidden units by ascending ones: those up to a degree are the first."""

    weight: Tensor
    bias: Tensor | None
    into: Tensor
    out: Tensor
    activation: str

    @classmethod
    def of(cls, layer: MaskedLinear, before: Tensor, order: Tensor) -> _Layer:
        """before, order: which of the layer's inputs and outputs come in turn."""
        bias = None if layer.bias is None else layer.bias.detach()
        degrees = layer.in_degrees[before], layer.out_degrees
        return cls(layer.weight.detach()[:, before], bias, *degrees, layer.activation).rows(order)

    def rows(self, which: slice | Tensor) -> _Layer:
        """The layer of some of its outputs."""
        bias = None if self.bias is None else self.bias[which]
        return self._replace(weight=self.weight[which], bias=bias, out=self.out[which])

    def __call__(self, h: Tensor, isa: str) -> Tensor:
        return cpu.masked_linear(h, self.weight, self.bias, Mask(self.into, self.out), self.activation, isa)


class _Turn(NamedTuple):
    fresh: list[tuple[slice, _Layer]]  # the units of each hidden layer that are to be computed
    outputs: _Layer  # those of the dimension


class MadeStep(Step):
    """A step by a MADE, layer by layer: a unit sums over the units before it alone, in one order."""

    def __init__(self, made: nn.Module, isa: str) -> None:
        assert isinstance(made, MADE)
        self.dims, self.isa = made.input_dim, isa
        *hidden, last = made.masked_layers()
        self.hidden, order = [], torch.arange(self.dims)
        for layer in hidden:
            before, order = order, layer.out_degrees.argsort(stable=True)
            self.hidden.append(_Layer.of(layer, before, order))
        self.last = _Layer.of(last, order, torch.arange(len(last.weight)))
        self.outputs = len(last.weight) // self.dims  # of a dimension: shift, and log_scale unless that is 0
        self.turns = self._turns()

    def _turns(self) -> list[_Turn]:
        """For each dimension what it takes that those before it did not."""
        turns, known = [], [0] * len(self.hidden)
        for d in range(self.dims):
            outputs = self.last.rows(torch.arange(self.outputs) * self.dims + d)
            fresh = []
            for i, layer in enumerate(self.hidden):
                units = slice(known[i], int(torch.searchsorted(layer.out, outputs.out.max(), right=True)))
                fresh.append((units, layer.rows(units)))
                known[i] = max(known[i], units.stop)
            turns.append(_Turn(fresh, outputs))
        return turns

    @torch.no_grad()
    def __call__(self, v: Tensor, which: int | slice = slice(None)) -> _Both:
        for layer in (*self.hidden, self.last):
            v = layer(v, self.isa)
        return self.both(v.unflatten(1, (self.outputs, -1))[:, :, which])

    def both(self, of_dims: Tensor) -> _Both:
        """Shift and log scale in the outputs of some dimensions, ``[B, outputs, ...]``."""
        shift, *log_scale = (_finite(part) for part in of_dims.unbind(1))
        return shift, log_scale[0] if log_scale else np.zeros_like(shift)

    def start(self, n: int) -> Run:
        return _MadeRun(self, n)


class _MadeRun(Run):
    """Computes each hidden unit once, when the dimensions of its degree are known."""

    def __init__(self, step: MadeStep, n: int) -> None:
        super().__init__(step, n)
        self.made, self.units = step, [torch.zeros(n, len(layer.weight)) for layer in step.hidden]

    @torch.no_grad()
    def params(self) -> _Both:
        h, turn, isa = self.v, self.made.turns[self.at], self.made.isa
        for (of_turn, layer), units in zip(turn.fresh, self.units, strict=True):
            if of_turn.stop > of_turn.start:
                units[:, of_turn] = layer(h, isa)
            h = units
        return self.made.both(turn.outputs(h, isa))


def floats(x: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(x, np.float32))


def _finite(x: Tensor | NDArray[np.float32]) -> Floats:
    """x within what a float64 multiplies, NaN too: v of a hostile file has any size."""
    return np.fmin(np.fmax(np.asarray(x), -_MOST), _MOST).astype(np.float64)
