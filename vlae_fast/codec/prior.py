"""The prior of a code z as normal distributions in turn, by steps whose rows have the same bits in any batch.

A flow maps z by one step after the other, the order of the dimensions turned between two. What is coded is u, the
variable before the last step, on a grid: its dimensions are normal in turn, so that nothing of the prior is
approximated but for the grid::

    eps_d = (v_d - m(v_<d)) e^-s(v_<d)  =>  v_d | v_<d ~ N(m, e^s)    of  v = u, turned where there are two steps

Dimensions are in the prior's own order here, which is z's but for a prior of convolutions. That one goes over the map
pixel after pixel; the channels of a pixel lie side by side, in any order, for they do not depend on each other.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from ..models.conv_flow import ConvFlow
from ..models.flow import AutoregressiveFlow
from ..models.vlae import VLAE
from .numbers import Floats, exp
from .stack import Stack, Symbols
from .steps import floats, inverse, steps_of

_any_size = np.errstate(over="ignore", invalid="ignore")  # a hostile file's numbers overflow, and are refused later


class Cells(NamedTuple):
    """The cells of a grid: of width step, a number or one for each dimension.

    Means are cut to middle cells on either side of 0, and most cells have a probability. The coder gives each of those
    a share of 2^-24 at least.
    """

    step: Any
    middle: int
    most: int

    def of(self, mean: Floats, scale: Floats) -> tuple[Floats, Floats]:
        """In cells, and within what there is: a pair of numbers that is not finite makes no difference to others."""
        mean = np.fmin(np.fmax(mean / self.step, -self.middle), self.middle)  # of NaN and a number the number
        scale = np.fmin(np.fmax(scale / self.step, 1 / 16), 4.0 * self.middle)
        return np.ascontiguousarray(mean), np.ascontiguousarray(scale)


class Prior:
    """The prior of a model's code on a grid. Levels are ``[B, D]``, in the order of the last step but one.

    isa: instruction set of the kernels. cells: those of u, their step ``[D]``.
    """

    def __init__(self, model: VLAE, isa: str, cells: Cells) -> None:
        check_prior(model)
        self.dims, self.cells = model.latent_dim, cells
        self.order: Any = slice(None)  # which dimensions of z come in turn
        self.back: Any = slice(None)  # and which in turn are those of z
        self.steps = steps_of(model, isa)
        if isinstance(model.prior, ConvFlow):
            self.order = np.arange(self.dims).reshape(model.prior.shape[0], -1).T.reshape(-1)
            self.back = np.argsort(self.order)
        self.last = self.steps[-1] if self.steps else None
        self.is_turned = len(self.steps) > 1

    @_any_size
    def push(self, stack: Stack, levels: Symbols) -> None:
        """Levels of u, under the last step."""
        levels, cells = self._turned(levels), self._cells_of_last()
        mean, scale = np.zeros(levels.shape), np.ones(levels.shape)
        if self.last is not None:
            mean, log_scale = self.last(floats(levels * cells.step))
            scale = exp(log_scale)
        mean, scale = cells.of(mean, scale)
        stack.push_normal(by_dimension(levels), by_dimension(mean), by_dimension(scale), cells.most)

    @_any_size
    def pop(self, stack: Stack, n: int) -> Symbols:
        """Levels of u ``[n, D]`` that `push` was given."""
        levels, cells = np.zeros((n, self.dims), np.int32), self._cells_of_last()
        mean, scale = np.zeros(n), np.ones(n)
        run = None if self.last is None else self.last.start(n)
        for d, step in enumerate(cells.step):
            if run is not None:
                mean, log_scale = run.params()
                scale = exp(log_scale)
            levels[:, d] = stack.pop_normal(*cells._replace(step=step).of(mean, scale), cells.most)
            if run is not None:
                run.put(floats(levels[:, d] * step))
        return self._turned(levels)

    @_any_size
    def z_of(self, levels: Symbols) -> Tensor:
        """z ``[B, D]`` of levels of u."""
        z = floats(levels * self.cells.step)
        for i, step in reversed(list(enumerate(self.steps[:-1]))):
            z = inverse(step, z.double().numpy())
            z = z.flip(1) if i else z
        return z[:, self.back]

    def _cells_of_last(self) -> Cells:
        return self.cells._replace(step=self._turned(self.cells.step))

    def _turned(self, of_dimensions: Any) -> Any:
        return np.ascontiguousarray(of_dimensions[..., ::-1]) if self.is_turned else of_dimensions


def by_dimension(of_images: Any) -> Any:
    """``[B, D]`` -> ``[D B]``: the first dimension of all images is popped first."""
    return np.ascontiguousarray(of_images.T).reshape(-1)


def check_prior(model: VLAE) -> None:
    """Raises ValueError where the prior is not normal in turn."""
    if model.prior is not None and not isinstance(model.prior, AutoregressiveFlow | ConvFlow):
        rule = "bits back and lossy codes must have a prior of MADEs or of masked convolutions"
        raise ValueError(f"codec: {rule}, got {type(model.prior).__name__}")
