"""Bits back with ANS: z is popped from the stack under q(z | x), then pixels and z are pushed under the model.

What the stack held before pays for z, so that an image takes about ``log q(z | x) - log p(x, z)``: the negative of its
ELBO. An image that is decoded gives the bits back, by which the one before it is decoded.

Under a flow prior of two steps what is popped is not z but u, see `prior`. Given x its dimensions are normal in turn,
by the first step::

    u_i = (z_i - m(z_<i)) e^-s(z_<i)  =>  u_i | z_<i ~ N((mu_i - m) e^-s, sigma_i e^-s)  of  z ~ N(mu, sigma)

So no approximation of the prior is coded: what is lost is the grid's alone. Steps of the prior between the first and
the last, and those of an ``iaf`` posterior, which starts from a Gaussian, are passed by local bits back, see `local`.

Source: Townsend et al. 2019, arXiv 1901.04866.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..models.encoder import Encoder
from ..models.labels import one_hot
from ..models.vlae import VLAE
from ..sampling.fixed_order import Spread
from .container import FileError
from .local import backward, forward, of_flow, of_posterior
from .numbers import Floats, exp
from .portable import PORTABLE, PortableSpread, kernels_of
from .prior import Cells, Prior, by_dimension, check_prior
from .stack import Stack, Symbols
from .steps import floats, inverse, walk

PRECISION = 4  # bits behind the point
LOCAL_PRECISION = 7  # likewise: noise is two cells, by which z is off
_AT_ONCE = 128  # images that the encoder is given
_MIDDLE = 256.0  # of u, on either side of 0: where means are
_AROUND = 8.0  # of u, on either side of the posterior's mean: the coder pops even the least likely cell once in 2^24


class _Joined(nn.Module):
    """An encoder whose input, images beside their labels, one-hot, is one tensor, and whose outputs are one."""

    takes_batches = True

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        if n := self.encoder.n_classes:
            images = x[:, :-n].unflatten(1, self.encoder.image_shape)
            return torch.cat(self.encoder.of_classes(images, x[:, -n:]), 1)
        return torch.cat(self.encoder.with_context(x) if self.encoder.context_dim else self.encoder(x), 1)


class Given(NamedTuple):
    """What the encoder says of images: mu and sigma ``[B, D]``, and the context of a flow posterior."""

    mu: Floats
    sigma: Floats
    context: Tensor

    def rows(self, start: int, stop: int) -> Given:
        """The rows of the images from start up to below stop."""
        return Given(self.mu[start:stop], self.sigma[start:stop], self.context[start:stop])


class Latent:
    """The code of a model, by kernels of an instruction set, or portable ones. A row has the same bits in any batch.

    What `pop_posterior` gives and `push_prior` takes are levels of u: of z itself, or of the variable behind the first
    step of the prior.
    """

    def __init__(self, model: VLAE, isa: str, precision: int | None = None) -> None:
        check_model(model)
        self.n_classes = model.n_classes
        self.dims, self.isa = model.latent_dim, kernels_of(isa)
        self.step = 2.0 ** -(precision or precision_of(model))
        self.around = int(_AROUND / self.step)
        self.network: Spread | None = None
        if model.encoder is not None:
            joined = _Joined(model.encoder)
            self.network = PortableSpread(joined) if isa == PORTABLE else Spread(joined, "cpu", isa)
        middle = int(_MIDDLE / self.step)
        self.cells = Cells(self.step, middle, middle + self.around)
        self.prior = Prior(model, self.isa, self.cells._replace(step=np.full(self.dims, self.step)))
        self.posterior = list(model.posterior.steps) if model.posterior is not None else []
        has_first = len(self.prior.steps) > 1 and not self.posterior
        self.first = self.prior.steps[0] if has_first else None
        self.middle = [(i, of_flow(self.prior.steps[i])) for i in range(has_first, len(self.prior.steps) - 1)]

    def posterior_of(self, x: Tensor, labels: Tensor | None = None) -> Given:
        """q(z | x) of images ``[B, C, H, W]`` and their labels ``[B]``, the same bits in any batch."""
        if self.network is None or not len(x):
            return Given(np.zeros((len(x), self.dims)), np.zeros((len(x), self.dims)), torch.zeros(len(x), 0))
        if labels is not None:
            x = torch.cat([x.flatten(1), one_hot("codec", labels, self.n_classes, x)], 1)
        with torch.no_grad():
            found = torch.cat([self.network(part) for part in x.split(_AT_ONCE)])
        mu, logvar = found[:, : 2 * self.dims].double().numpy().reshape(len(x), 2, self.dims).transpose(1, 0, 2)
        return Given(mu, exp(0.5 * logvar), found[:, 2 * self.dims :])

    def pop_posterior(self, stack: Stack, given: Given) -> tuple[Symbols, Tensor]:
        """Levels of u ``[B, D]``, popped under q(z | x), and z ``[B, D]``."""
        mean, scale, context = given
        if self.first is None:
            centre, mean, scale = self._centre(mean, scale)
            found = stack.pop_normal(by_dimension(mean), by_dimension(scale), self.around)
            levels = centre + found.reshape(self.dims, len(mean)).T
            for i, made in enumerate(self.posterior):
                affine = of_posterior(made, self.isa, context)
                levels = _flipped(forward(stack, _flipped(levels, i % 2), affine, self.cells), i % 2)
            return levels[:, self.prior.order], floats(levels * self.step)
        mean, scale = mean[:, self.prior.order], scale[:, self.prior.order]
        levels = np.zeros(mean.shape, np.int32)

        def pop(i: int, shift: Floats, factor: Floats) -> Floats:
            centre, own, own_scale = self._centre((mean[:, i] - shift) / factor, scale[:, i] / factor)
            levels[:, i] = centre + stack.pop_normal(own, own_scale, self.around)
            return levels[:, i] * self.step

        return levels, walk(self.first, len(mean), pop)[:, self.prior.back]

    def push_posterior(self, stack: Stack, given: Given, levels: Symbols, z: Tensor) -> None:
        """Gives back what `pop_posterior` took; FileError where it cannot have taken it."""
        mean, scale, context = given
        if self.first is not None:
            mean, scale = mean[:, self.prior.order], scale[:, self.prior.order]
            shift, log_scale = self.first(z[:, self.prior.order])
            factor = exp(log_scale)
            mean, scale = (mean - shift) / factor, scale / factor
        else:
            levels = levels[:, self.prior.back]
        for i, made in reversed(list(enumerate(self.posterior))):
            affine = of_posterior(made, self.isa, context)
            levels = _flipped(backward(stack, _flipped(levels, i % 2), affine, self.cells), i % 2)
        centre, mean, scale = self._centre(mean, scale)
        if (np.abs(levels - centre) > self.around).any():
            raise FileError("codes must be ones that the posterior may give: the file is damaged")
        stack.push_normal(by_dimension(levels - centre), by_dimension(mean), by_dimension(scale), self.around)

    def push_prior(self, stack: Stack, levels: Symbols) -> None:
        for i, affine in self.middle:
            levels = forward(stack, _flipped(levels, i), affine, self.cells)
        self.prior.push(stack, levels)

    def pop_prior(self, stack: Stack, n: int) -> tuple[Symbols, Tensor]:
        """Levels of u ``[n, D]`` that `push_prior` was given, and z ``[n, D]``."""
        levels = self.prior.pop(stack, n)
        for i, affine in reversed(self.middle):
            levels = _flipped(backward(stack, levels, affine, self.cells), i)
        z = floats(levels * self.step)
        z = z if self.first is None else inverse(self.first, z.double().numpy())
        return levels, z[:, self.prior.back]

    def _centre(self, mean: Floats, scale: Floats) -> tuple[Symbols, Floats, Floats]:
        """The cell of the posterior's mean, and mean and scale from there in cells."""
        mean, scale = self.cells.of(mean, scale)
        centre = np.rint(mean)
        return centre.astype(np.int32), mean - centre, np.minimum(scale, self.around / 4)


def _flipped(levels: Symbols, turned: int) -> Symbols:
    return np.ascontiguousarray(levels[:, ::-1]) if turned else levels


def precision_of(model: VLAE) -> int:
    """Bits behind the point that a model's code has: more where local bits back, which add noise, pass steps."""
    steps = len(model.prior.steps) if model.prior is not None else 0
    is_local = model.posterior is not None or steps > 2
    return LOCAL_PRECISION if is_local else PRECISION


def check_model(model: VLAE) -> None:
    """Raises ValueError where a model's code is none that bits back has a way for."""
    check_prior(model)
