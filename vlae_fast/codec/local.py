"""Local bits back: levels through a step that is affine in turn, for the bits of its slope.

Of a step ``y_d = a(x_<d) x_d + b(x_<d)`` the side that has x pops y and pushes x, given each other::

    y_d ~ N(a x_d + b, r^2),  x_d ~ N((y_d - b) / a, (r / a)^2);  the ratio of the two densities is a, whatever r

so that both together take the step's slope and no more, and y is off by a noise of r, two cells. All y are popped at
once; the side that has y pops x in turn.

Source: Ho et al. 2019, arXiv 1905.08500.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from ..backends import cpu
from ..layers import MADE
from ..reference.arguments import Mask
from .container import FileError
from .numbers import Floats, exp, sigmoid
from .prior import Cells, by_dimension
from .stack import Stack, Symbols
from .steps import Step, floats

Affine = Callable[..., tuple[Floats, Floats]]  # x [B, D], and which of the dimensions are wanted -> a and b of those
_NOISE = 2  # cells
_AROUND = 16  # cells on either side of y's mean; the coder pops even the least likely of them once in 2^24
_OPEN = 2.0  # as in models.posterior


def forward(stack: Stack, levels: Symbols, affine: Affine, cells: Cells) -> Symbols:
    """Levels of y ``[B, D]`` for those of x: y is popped, x is pushed."""
    a, b = affine(floats(levels * cells.step))
    centre, mean, scale = _of_y(levels, a, b, cells)
    found = stack.pop_normal(by_dimension(mean), by_dimension(scale), _AROUND)
    y = centre + found.reshape(levels.shape[1], len(levels)).T
    mean, scale = _of_x(y, a, b, cells)
    stack.push_normal(by_dimension(levels), by_dimension(mean), by_dimension(scale), cells.most)
    return y


def backward(stack: Stack, y: Symbols, affine: Affine, cells: Cells) -> Symbols:
    """Levels of x ``[B, D]`` for those of y: x is popped in turn, y is pushed."""
    levels = np.zeros(y.shape, np.int32)
    for d in range(y.shape[1]):
        a, b = affine(floats(levels * cells.step), d)
        mean, scale = _of_x(y[:, d], a, b, cells)
        levels[:, d] = stack.pop_normal(mean, scale, cells.most)
    centre, mean, scale = _of_y(levels, *affine(floats(levels * cells.step)), cells)
    if (np.abs(y - centre) > _AROUND).any():
        raise FileError("codes must be ones that a step may give: the file is damaged")
    stack.push_normal(by_dimension(y - centre), by_dimension(mean), by_dimension(scale), _AROUND)
    return levels


def _of_y(x: Symbols, a: Floats, b: Floats, cells: Cells) -> tuple[Symbols, Floats, Floats]:
    """The cell of y's mean, and mean and scale from there in cells."""
    mean, scale = cells.of(x * cells.step * a + b, np.full(a.shape, _NOISE * cells.step))
    centre = np.rint(mean)
    return centre.astype(np.int32), mean - centre, scale


def _of_x(y: Symbols, a: Floats, b: Floats, cells: Cells) -> tuple[Floats, Floats]:
    return cells.of((y * cells.step - b) / a, _NOISE * cells.step / a)


def of_flow(step: Step) -> Affine:
    """A step of a flow prior, ``eps = (z - shift) e^-log_scale``."""

    def affine(v: Tensor, which: int | slice = slice(None)) -> tuple[Floats, Floats]:
        shift, log_scale = step(v, which)
        a = exp(-log_scale)
        return a, -shift * a

    return affine


def of_posterior(made: nn.Module, isa: str, context: Tensor) -> Affine:
    """A step of an ``iaf`` posterior, ``z <- s z + (1 - s) m``, given what the encoder says of x, ``[B, context]``."""
    assert isinstance(made, MADE) and made.context is not None
    layers = made.masked_layers()
    first, dims = layers[0], made.input_dim
    seen_by_all = torch.full((context.shape[1],), int(first.out_degrees.min()), dtype=first.in_degrees.dtype)
    masks = [Mask(layer.in_degrees, layer.out_degrees) for layer in layers]
    masks[0] = Mask(torch.cat([first.in_degrees, seen_by_all]), first.out_degrees)
    weights = [layer.weight for layer in layers]
    weights[0] = torch.cat([first.weight, made.context.weight], 1)
    activations = [made.activation] + [layer.activation for layer in layers[1:]]

    @torch.no_grad()
    def affine(v: Tensor, which: int | slice = slice(None)) -> tuple[Floats, Floats]:
        h = torch.cat([v, context], 1)
        for layer, weight, mask, activation in zip(layers, weights, masks, activations, strict=True):
            h = cpu.masked_linear(h, weight, layer.bias, mask, activation, isa)
        mean, s = (part[:, which].double().numpy() for part in (h[:, :dims], h[:, dims:]))
        s = sigmoid(s + _OPEN)
        return s, (1 - s) * mean

    return affine
