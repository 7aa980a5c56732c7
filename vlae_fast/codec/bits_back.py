"""Bits back with ANS: z is popped from the stack under q(z | x), then pixels and z are pushed under the model.

What the stack held before pays for z, so that an image takes about ``log q(z | x) - log p(x, z)``: the negative of its
ELBO. An image that is decoded gives the bits back, by which the one before it is decoded.

What is popped is not z but u on a grid of step ``2^-precision``, the variable between the two steps of a flow prior.
Given x its dimensions are normal in turn, by the first step; under the prior they are normal in turn, by the second::

    u_i = (z_i - m(z_<i)) e^-s(z_<i)  =>  u_i | z_<i ~ N((mu_i - m) e^-s, sigma_i e^-s)  of  z ~ N(mu, sigma)
    eps_d = (v_d - m'(v_<d)) e^-s'(v_<d)  =>  v_d | v_<d ~ N(m', e^s')                    of  v = u reversed

So no approximation of the prior is coded: what is lost is the grid's alone.

Source: Townsend et al. 2019, arXiv 1901.04866.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..backends import cpu
from ..layers import MADE
from ..models.flow import AutoregressiveFlow
from ..models.vlae import VLAE
from ..reference.arguments import Mask
from ..sampling.fixed_order import Spread
from .container import FileError
from .numbers import Floats, exp
from .stack import Stack, Symbols

PRECISION = 4  # bits behind the point
MOST = 1 << 12  # levels on either side of 0
_AROUND = 8.0  # of u, on either side of the posterior's mean: the coder gives every cell that there is a share of 2^-24

Params = Callable[[Tensor], tuple[Floats, Floats]]  # v [B, D] -> shift and log_scale


class _Joined(nn.Module):
    """An encoder whose outputs are one tensor."""

    takes_batches = True

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(self.encoder(x), 1)


class Latent:
    """The code of a model, by kernels of an instruction set. A row has the same bits in any batch."""

    def __init__(self, model: VLAE, isa: str, precision: int = PRECISION) -> None:
        check_model(model)
        self.dims, self.step = model.latent_dim, 2.0**-precision
        self.around = int(_AROUND / self.step)
        self.network = Spread(_Joined(model.encoder), "cpu", isa) if model.encoder is not None else None
        made = [_of_made(step, isa) for step in model.prior.steps] if model.prior is not None else []
        self.first = made[0] if len(made) == 2 else None
        self.last = made[-1] if made else None

    def pop_posterior(self, stack: Stack, x: Tensor) -> tuple[Symbols, Tensor]:
        """Levels of u ``[B, D]``, popped under q(z | x), and z ``[B, D]``."""
        mean, scale = self._posterior(x)
        if self.first is None:
            centre, mean, scale = self._centre(mean, scale)
            found = stack.pop_normal(by_dimension(mean), by_dimension(scale), self.around)
            levels = centre + found.reshape(self.dims, len(x)).T
            return levels, self._float(levels * self.step)

        def pop(i: int, shift: Floats, factor: Floats) -> Symbols:
            centre, own, own_scale = self._centre((mean[:, i] - shift) / factor, scale[:, i] / factor)
            return centre + stack.pop_normal(own, own_scale, self.around)

        return self._walk(len(x), pop)

    def push_posterior(self, stack: Stack, x: Tensor, levels: Symbols, z: Tensor) -> None:
        """Gives back what `pop_posterior` took; FileError where it cannot have taken it."""
        mean, scale = self._posterior(x)
        if self.first is not None:
            shift, log_scale = self.first(z)
            factor = exp(log_scale)
            mean, scale = (mean - shift) / factor, scale / factor
        centre, mean, scale = self._centre(mean, scale)
        if (np.abs(levels - centre) > self.around).any():
            raise FileError("codes must be ones that the posterior may give: the file is damaged")
        stack.push_normal(by_dimension(levels - centre), by_dimension(mean), by_dimension(scale), self.around)

    def push_prior(self, stack: Stack, levels: Symbols) -> None:
        turned = self._turned(levels)
        mean, scale = np.zeros(turned.shape), np.ones(turned.shape)
        if self.last is not None:
            mean, log_scale = self.last(self._float(turned * self.step))
            scale = exp(log_scale)
        mean, scale = self._in_cells(mean, scale)
        stack.push_normal(by_dimension(turned), by_dimension(mean), by_dimension(scale), MOST + self.around)

    def pop_prior(self, stack: Stack, n: int) -> tuple[Symbols, Tensor]:
        """Levels of u ``[n, D]`` that `push_prior` was given, and z ``[n, D]``."""
        levels = np.zeros((n, self.dims), np.int32)
        mean, scale = np.zeros(n), np.ones(n)
        v = torch.zeros(n, self.dims)
        for d in range(self.dims):
            if self.last is not None:
                means, log_scales = self.last(v)
                mean, scale = means[:, d], exp(log_scales[:, d])
            levels[:, d] = stack.pop_normal(*self._in_cells(mean, scale), MOST + self.around)
            v[:, d] = self._float(levels[:, d] * self.step)
        levels = self._turned(levels)
        if self.first is None:
            return levels, self._float(levels * self.step)
        return self._walk(n, lambda i, shift, factor: levels[:, i])

    def _walk(self, n: int, level: Callable[[int, Floats, Floats], Symbols]) -> tuple[Symbols, Tensor]:
        """z, dimension after dimension, of the levels of u that are asked for in turn."""
        assert self.first is not None
        levels, z = np.zeros((n, self.dims), np.int32), torch.zeros(n, self.dims)
        for i in range(self.dims):
            shifts, log_scales = self.first(z)
            shift, factor = shifts[:, i], exp(log_scales[:, i])
            levels[:, i] = level(i, shift, factor)
            z[:, i] = self._float(levels[:, i] * self.step * factor + shift)
        return levels, z

    def _posterior(self, x: Tensor) -> tuple[Floats, Floats]:
        """mu and sigma ``[B, D]``, the same bits in any batch."""
        if self.network is None:
            return np.zeros((len(x), 0)), np.zeros((len(x), 0))
        with torch.no_grad():
            found = self.network(x)
        mu, logvar = found.double().numpy().reshape(len(x), 2, self.dims).transpose(1, 0, 2)
        return mu, exp(0.5 * logvar)

    def _centre(self, mean: Floats, scale: Floats) -> tuple[Symbols, Floats, Floats]:
        """The cell of the posterior's mean, and mean and scale from there in cells."""
        mean, scale = self._in_cells(mean, scale)
        centre = np.rint(mean)
        return centre.astype(np.int32), mean - centre, np.minimum(scale, self.around / 4)

    def _in_cells(self, mean: Floats, scale: Floats) -> tuple[Floats, Floats]:
        """In cells, and within what there is: a pair of numbers that is not finite makes no difference to others."""
        mean, scale = np.clip(mean / self.step, -MOST, MOST), np.clip(scale / self.step, 1 / 16, 4.0 * MOST)
        return np.ascontiguousarray(mean), np.ascontiguousarray(scale)

    def _turned(self, levels: Symbols) -> Symbols:
        """The order of the last step, which is the other one where there are two."""
        return np.ascontiguousarray(levels[:, ::-1]) if self.first is not None else levels

    @staticmethod
    def _float(x: Any) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(x, np.float32))


def by_dimension(of_images: Any) -> Any:
    """``[B, D]`` -> ``[D B]``: the first dimension of all images is popped first."""
    return np.ascontiguousarray(of_images.T).reshape(-1)


def check_model(model: VLAE) -> None:
    """Raises ValueError where a model's code is none that bits back has a way for."""
    if model.posterior is not None:
        raise ValueError("codec: bits back must have a gaussian posterior, got iaf: use the mean code")
    if model.prior is not None and not isinstance(model.prior, AutoregressiveFlow):
        raise ValueError(f"codec: bits back must have a prior of MADEs, got {type(model.prior).__name__}")
    if model.prior is not None and len(model.prior.steps) > 2:
        raise ValueError(f"codec: bits back must have a prior of at most 2 flow_steps, got {len(model.prior.steps)}")


def _of_made(made: nn.Module, isa: str) -> Params:
    """shift and log_scale of a step, layer by layer: an output sums over the inputs before it alone, in one order."""
    assert isinstance(made, MADE)
    layers = made.masked_layers()
    masks = [Mask(layer.in_degrees, layer.out_degrees) for layer in layers]

    @torch.no_grad()
    def params(v: Tensor) -> tuple[Floats, Floats]:
        h = v
        for layer, mask in zip(layers, masks, strict=True):
            h = cpu.masked_linear(h, layer.weight, layer.bias, mask, layer.activation, isa)
        found = h.double().numpy()
        dims = v.shape[1]
        return found[:, :dims], found[:, dims:] if found.shape[1] > dims else np.zeros_like(found)

    return params
