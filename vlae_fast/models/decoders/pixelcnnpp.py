"""A shallow and wide decoder in the style of PixelCNN++: one large window, then gated ResNet blocks of each pixel."""

from __future__ import annotations

from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...layers import GatedMaskedConv2d, MaskedConv2d
from ...sampling.program import Program
from ..likelihood_base import Likelihood
from .base import CENTRE, Decoder
from .handed import ConvOfZ, HandedZ, see


def concat_elu(h: Tensor) -> Tensor:
    """elu of h and of -h, twice the channels (Salimans et al. 2017, arXiv 1701.05517)."""
    return F.elu(torch.cat([h, -h], 1))


class GatedResidualBlock(nn.Module):
    """``h + gate(conv(concat_elu(conv(concat_elu(h)))) + V z)`` of 1x1 convolutions, weight-normalised."""

    takes_context: ClassVar[bool] = True

    def __init__(self, channels: int, handed: HandedZ, backend: str) -> None:
        super().__init__()
        self.handed = handed
        self.first = MaskedConv2d("B", 2 * channels, channels, 1, weight_norm=True, backend=backend)
        self.second = GatedMaskedConv2d(
            "B", 2 * channels, channels, 1, cond_channels=handed.z_channels, weight_norm=True, backend=backend
        )

    def forward(self, h: Tensor, z: Tensor | None = None, *, context: Tensor | None = None) -> Tensor:
        """z: as in `HandedZ`; context: what it became."""
        if context is None:
            context = self.handed.context(z, "layer(h, z)")
        return h + self.second(concat_elu(self.first(concat_elu(h))), context)

    def write(self, program: Program, h: int) -> int:
        inner = program.conv(self.first, program.activate(h, "concat_elu"))
        return program.conv(self.second, program.activate(inner, "concat_elu"), residual=h)


class PixelCNNPPDecoder(Decoder):
    """One convolution of a large window, and ``n_layers`` gated ResNet blocks of 1x1 convolutions conditioned on z.

    ``initial_conv(x, z)`` and ``decoder_layers[i](h, z)`` take z themselves; final_conv is given ``concat_elu(h)``.

    The one convolution sees all of its window, without a blind spot. The paper's CIFAR-10 model has a window of 7
    columns and 4 rows. `layers.initialize` sets gains and biases from data, once, before training.

    Args:
        input_dim, latent_dim, z_channels, image_size: as in `PixelCNNDecoder`. hidden_dim: channels.
        initial_kernel: columns of the window, odd. receptive_field: the same, checked to fit the image.
        likelihood: of the pixels, for RGB the logistic mixture.

    Source: Chen et al. 2017, arXiv 1611.02731, section 4.3; Salimans et al. 2017, arXiv 1701.05517 (the blocks; the
    gate here is that of the Gated PixelCNN).
    """

    default_z_channels: ClassVar[int] = 16

    def __init__(
        self,
        input_dim: int = 3,
        latent_dim: int = 64,
        hidden_dim: int = 96,
        n_layers: int = 3,
        *,
        initial_kernel: int = 7,
        receptive_field: int | None = None,
        z_channels: int | None = None,
        image_size: tuple[int, int] = (32, 32),
        likelihood: Likelihood | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            input_dim, latent_dim, hidden_dim, n_layers, image_size, z_channels=z_channels, likelihood=likelihood
        )
        (initial_kernel,) = self._kernels([initial_kernel], receptive_field)
        if initial_kernel < 3:
            self._refuse("initial_kernel must be at least 3", initial_kernel)
        self.initial_conv = ConvOfZ(
            "A",
            input_dim,
            hidden_dim,
            initial_kernel,
            cond_channels=self.z_channels,
            weight_norm=True,
            handed=self.handed,
            backend=backend,
        )
        self.decoder_layers = nn.ModuleList(
            GatedResidualBlock(hidden_dim, self.handed, backend) for _ in range(n_layers)
        )
        self.final_conv = nn.Conv2d(2 * hidden_dim, self.likelihood.params, 1)

    def parameters_of(self, x: Tensor, context: Tensor | None) -> Tensor:
        h = see(self.initial_conv, x, context=context)
        for block in self.decoder_layers:
            h = see(block, h, context=context)
        return self.final_conv(concat_elu(h))

    def write_program(self, program: Program) -> None:
        """Appends the stages of `parameters_of` to a sampler's program."""
        h = program.conv(self.initial_conv, 0)
        for block in cast(list[GatedResidualBlock], [*self.decoder_layers]):
            h = block.write(program, h)
        program.add([(program.activate(h, "concat_elu"), self.final_conv.weight, CENTRE)], self.final_conv.bias)
