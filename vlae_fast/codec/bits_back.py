"""Bits back with ANS: z is popped from the stack under q(z | x), then pixels and z are pushed under the model.

What the stack held before pays for z, so that an image takes about ``log q(z | x) - log p(x, z)``: the negative of its
ELBO. An image that is decoded gives the bits back, by which the one before it is decoded.

Under a flow prior of two steps what is popped is not z but u, see `prior`. Given x its dimensions are normal in turn,
by the first step::

    u_i = (z_i - m(z_<i)) e^-s(z_<i)  =>  u_i | z_<i ~ N((mu_i - m) e^-s, sigma_i e^-s)  of  z ~ N(mu, sigma)

So no approximation of the prior is coded: what is lost is the grid's alone.

Source: Townsend et al. 2019, arXiv 1901.04866.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ..models.vlae import VLAE
from ..sampling.fixed_order import Spread
from .container import FileError
from .numbers import Floats, exp
from .prior import Prior, by_dimension, check_prior, floats, in_cells, walk
from .stack import Stack, Symbols

PRECISION = 4  # bits behind the point
_AROUND = 8.0  # of u, on either side of the posterior's mean: the coder gives every cell that there is a share of 2^-24


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
        self.prior = Prior(model, isa, np.full(self.dims, self.step))
        self.first = self.prior.steps[0] if len(self.prior.steps) == 2 else None

    def pop_posterior(self, stack: Stack, x: Tensor) -> tuple[Symbols, Tensor]:
        """Levels of u ``[B, D]``, popped under q(z | x), and z ``[B, D]``."""
        mean, scale = self._posterior(x)
        if self.first is None:
            centre, mean, scale = self._centre(mean, scale)
            found = stack.pop_normal(by_dimension(mean), by_dimension(scale), self.around)
            levels = centre + found.reshape(self.dims, len(x)).T
            return levels, floats(levels * self.step)
        levels = np.zeros((len(x), self.dims), np.int32)

        def pop(i: int, shift: Floats, factor: Floats) -> Floats:
            centre, own, own_scale = self._centre((mean[:, i] - shift) / factor, scale[:, i] / factor)
            levels[:, i] = centre + stack.pop_normal(own, own_scale, self.around)
            return levels[:, i] * self.step

        return levels, walk(self.first, len(x), self.dims, pop)

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
        self.prior.push(stack, levels)

    def pop_prior(self, stack: Stack, n: int) -> tuple[Symbols, Tensor]:
        """Levels of u ``[n, D]`` that `push_prior` was given, and z ``[n, D]``."""
        levels = self.prior.pop(stack, n)
        return levels, self.prior.z_of(levels)

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
        mean, scale = in_cells(mean, scale, self.step)
        centre = np.rint(mean)
        return centre.astype(np.int32), mean - centre, np.minimum(scale, self.around / 4)


def check_model(model: VLAE) -> None:
    """Raises ValueError where a model's code is none that bits back has a way for."""
    if model.posterior is not None:
        raise ValueError("codec: bits back must have a gaussian posterior, got iaf: use the mean code")
    check_prior(model)
    if model.prior is not None and len(model.prior.steps) > 2:
        raise ValueError(f"codec: bits back must have a prior of at most 2 flow_steps, got {len(model.prior.steps)}")
