"""Decoders of ordinary VAEs: given z, the pixels are independent, and x is not looked at."""

from __future__ import annotations

import itertools
import math
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from ..likelihood_base import Likelihood
from ..normalization import NORMS, linear, transposed
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

    def _halves(self, hidden_dim: int, n_layers: int) -> list[int]:
        """hidden_dim, and half as many each time, ``n_layers`` numbers; ValueError where one is not whole."""
        if n_layers and hidden_dim % 2 ** (n_layers - 1):
            self._refuse(f"hidden_dim must be a multiple of 2 ** (n_layers - 1) = {2 ** (n_layers - 1)}", hidden_dim)
        return [hidden_dim // 2**i for i in range(n_layers)]

    def _check_norm(self, decoder_norm: str) -> None:
        if decoder_norm not in NORMS:
            self._refuse(f"decoder_norm must be one of {', '.join(NORMS)}", repr(decoder_norm))


class MLPDecoder(FactorizedDecoder):
    """Fully connected: z -> ``n_layers`` of ``hidden_dim`` ReLU units -> the parameters of every pixel.

    The defaults are the decoder of the common 784-256-256-32 VAE. decoder_norm: none, batch or weight, of the layers
    before the last. tapered: ``hidden_dim`` are the units of the last hidden layer, half as many of the one before it,
    and so on. Other arguments and shapes as in `Decoder`.
    """

    def __init__(
        self,
        input_dim: int = 1,
        latent_dim: int = 32,
        hidden_dim: int = 256,
        n_layers: int = 2,
        *,
        decoder_norm: str = "none",
        tapered: bool = False,
        image_size: tuple[int, int] = (28, 28),
        likelihood: Likelihood | None = None,
    ) -> None:
        super().__init__(input_dim, latent_dim, hidden_dim, n_layers, image_size, likelihood=likelihood)
        self._check_norm(decoder_norm)
        widths = [latent_dim] + (self._halves(hidden_dim, n_layers)[::-1] if tapered else [hidden_dim] * n_layers)
        hidden = [
            layer for i, o in itertools.pairwise(widths) for layer in (*linear(i, o, norm=decoder_norm), nn.ReLU())
        ]
        self.out_shape = (self.likelihood.params, *self.image_size)
        self.net = nn.Sequential(*hidden, nn.Linear(widths[-1], math.prod(self.out_shape)))

    def decode(self, z: Tensor) -> Tensor:
        return self.net(z).unflatten(1, self.out_shape)


class DeconvDecoder(FactorizedDecoder):
    """Transposed convolutions of stride 2: ``hidden_dim`` channels at first, half as many after each.

    Args:
        deconv_kernel: 4 doubles each side, and a margin is cut off at the end: z -> 32 x 4 x 4 -> 16 x 8 x 8 ->
            8 x 16 x 16 -> P x 32 x 32, of which the image's 28 x 28 are kept. 3 undoes each halving of an encoder of
            stride 2, and has no ReLU before the first: z -> 32 x 4 x 4 -> 16 x 7 x 7 -> 8 x 14 x 14 -> P x 28 x 28, the
            mirror of the common convolutional encoder of 8, 16 and 32 channels.
        decoder_norm: none, batch or weight, of the layers before the last; batch: before each ReLU.

    Other arguments and shapes as in `Decoder`.
    """

    least: ClassVar[dict[str, int]] = {**FactorizedDecoder.least, "n_layers": 1}

    def __init__(
        self,
        input_dim: int = 1,
        latent_dim: int = 32,
        hidden_dim: int = 32,
        n_layers: int = 3,
        *,
        deconv_kernel: int = 4,
        decoder_norm: str = "none",
        image_size: tuple[int, int] = (28, 28),
        likelihood: Likelihood | None = None,
    ) -> None:
        super().__init__(input_dim, latent_dim, hidden_dim, n_layers, image_size, likelihood=likelihood)
        self._check_norm(decoder_norm)
        channels = self._halves(hidden_dim, n_layers)
        if deconv_kernel not in (3, 4):
            self._refuse("deconv_kernel must be 3 or 4", deconv_kernel)
        batch = decoder_norm == "batch"
        height, width = (-(-side // 2**n_layers) for side in self.image_size)
        self.coarse = (hidden_dim, height, width)
        (self.linear,) = linear(latent_dim, math.prod(self.coarse), norm="none" if batch else decoder_norm)
        layers: list[nn.Module] = []
        if deconv_kernel == 4:
            layers += [nn.BatchNorm2d(hidden_dim), nn.ReLU()] if batch else [nn.ReLU()]
        for i, (before, after) in enumerate(itertools.pairwise(channels)):
            how = self._how(deconv_kernel, n_layers - i)
            layers += [*transposed(before, after, norm=decoder_norm, **how), nn.ReLU()]
        last = transposed(channels[-1], self.likelihood.params, norm="none", **self._how(deconv_kernel, 1))
        self.net = nn.Sequential(*layers, *last)

    def _how(self, kernel: int, doublings: int) -> dict[str, Any]:
        """Arguments of a transposed convolution with so many doublings to go, its own included."""
        how: dict[str, Any] = {"kernel_size": kernel, "stride": 2, "padding": 1}
        if kernel == 3:  # n pixels become 2 n - 1, and one more where the side to reach is even
            to_reach = (-(-side // 2 ** (doublings - 1)) for side in self.image_size)
            how["output_padding"] = tuple(1 - side % 2 for side in to_reach)
        return how

    def decode(self, z: Tensor) -> Tensor:
        grown = self.net(self.linear(z).unflatten(1, self.coarse))
        return grown[:, :, : self.image_size[0], : self.image_size[1]]
