"""Decoders of ordinary VAEs: given z, the pixels are independent, and x is not looked at."""

from __future__ import annotations

import itertools
import math
from typing import ClassVar, cast

from torch import Tensor, nn

from ..likelihood_base import Likelihood
from .base import Decoder


class FactorizedDecoder(Decoder):
    """p(x | z) of pixels that are independent given z ``[B, D]``."""

    autoregressive = False
    least: ClassVar[dict[str, int]] = {**Decoder.least, "latent_dim": 1}

    def check_z(self, z: Tensor | None) -> None:
        if z is None or z.dim() != 2 or z.shape[1] != self.latent_dim:
            self._refuse(f"z must be [B, {self.latent_dim}]", None if z is None else tuple(z.shape))

    def parameters_of(self, x: Tensor, context: Tensor | None) -> Tensor:
        return self.decode(cast(Tensor, context))  # `check_z` let no None pass

    def decode(self, z: Tensor) -> Tensor:
        """Parameters ``[B, P, H, W]`` of z ``[B, D]``."""
        raise NotImplementedError


class MLPDecoder(FactorizedDecoder):
    """Fully connected: z -> ``n_layers`` of ``hidden_dim`` ReLU units -> the parameters of every pixel.

    The defaults are the decoder of the common 784-256-256-32 VAE. Arguments and shapes as in `Decoder`.
    """

    def __init__(
        self,
        input_dim: int = 1,
        latent_dim: int = 32,
        hidden_dim: int = 256,
        n_layers: int = 2,
        *,
        image_size: tuple[int, int] = (28, 28),
        likelihood: Likelihood | None = None,
    ) -> None:
        super().__init__(input_dim, latent_dim, hidden_dim, n_layers, image_size, likelihood=likelihood)
        widths = [latent_dim] + [hidden_dim] * n_layers
        hidden = [layer for i, o in itertools.pairwise(widths) for layer in (nn.Linear(i, o), nn.ReLU())]
        self.out_shape = (self.likelihood.params, *self.image_size)
        self.net = nn.Sequential(*hidden, nn.Linear(widths[-1], math.prod(self.out_shape)))

    def decode(self, z: Tensor) -> Tensor:
        return self.net(z).unflatten(1, self.out_shape)


class DeconvDecoder(FactorizedDecoder):
    """Transposed convolutions of stride 2 and kernel 4: ``hidden_dim`` channels at first, half as many after each.

    The defaults mirror the common convolutional encoder of 8, 16 and 32 channels: z -> 32 x 4 x 4 -> 16 x 8 x 8 ->
    8 x 16 x 16 -> P x 32 x 32, of which the image's 28 x 28 are kept. Arguments and shapes as in `Decoder`.
    """

    least: ClassVar[dict[str, int]] = {**FactorizedDecoder.least, "n_layers": 1}

    def __init__(
        self,
        input_dim: int = 1,
        latent_dim: int = 32,
        hidden_dim: int = 32,
        n_layers: int = 3,
        *,
        image_size: tuple[int, int] = (28, 28),
        likelihood: Likelihood | None = None,
    ) -> None:
        super().__init__(input_dim, latent_dim, hidden_dim, n_layers, image_size, likelihood=likelihood)
        if hidden_dim % 2 ** (n_layers - 1):
            self._refuse(f"hidden_dim must be a multiple of 2 ** (n_layers - 1) = {2 ** (n_layers - 1)}", hidden_dim)
        channels = [hidden_dim // 2**i for i in range(n_layers)]
        height, width = (-(-side // 2**n_layers) for side in self.image_size)
        self.coarse = (hidden_dim, height, width)
        self.linear = nn.Linear(latent_dim, math.prod(self.coarse))
        doublings = [
            layer
            for i, o in itertools.pairwise(channels)
            for layer in (nn.ReLU(), nn.ConvTranspose2d(i, o, 4, stride=2, padding=1))
        ]
        last = nn.ConvTranspose2d(channels[-1], self.likelihood.params, 4, stride=2, padding=1)
        self.net = nn.Sequential(*doublings, nn.ReLU(), last)

    def decode(self, z: Tensor) -> Tensor:
        grown = self.net(self.linear(z).unflatten(1, self.coarse))
        return grown[:, :, : self.image_size[0], : self.image_size[1]]
