"""The decoder of the paper for black and white images: a thin masked ResNet on top of a few maps of z."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, cast

import torch.nn.functional as F
from torch import Tensor, nn

from ...layers import MaskedConv2d
from ...sampling.program import Program
from ..likelihood_base import Likelihood
from .base import CENTRE, Decoder
from .code_map import DeconvolutionalMap
from .handed import ConvOfZ, see

_OTHERS = "second_conv, decoder_layers, pointwise_layers and elu"


class MaskedResidualBlock(nn.Module):
    """``h + conv(elu(conv(elu(h))))`` of type B convolutions, weight-normalised."""

    def __init__(self, channels: int, kernels: Sequence[int], backend: str) -> None:
        super().__init__()
        self.first = _convolution("B", channels, channels, kernels[0], "elu", backend)
        self.second = _convolution("B", channels, channels, kernels[1], "none", backend)

    def forward(self, h: Tensor, z: Tensor | None = None) -> Tensor:
        if z is not None:
            rule = "its layers after initial_conv(x, z) must be called as layer(h)"
            raise ValueError(f"ResNetDecoder: {rule}, got z; decoder(x, z) runs all of them")
        return h + self.second(self.first(F.elu(h)))

    def write(self, program: Program, h: int) -> int:
        return program.conv(self.second, program.conv(self.first, program.activate(h, "elu")), residual=h)


def _convolution(
    mask_type: str, in_channels: int, channels: int, kernel: int, activation: str, backend: str
) -> MaskedConv2d:
    return MaskedConv2d(
        mask_type, in_channels, channels, kernel, activation=activation, weight_norm=True, backend=backend
    )


class ResNetDecoder(Decoder):
    """Masked 3x3 convolutions in ResNet blocks, then 1x1 ResNet blocks: ELU, weight-normalised, no gate.

    z becomes a few maps by a deconvolutional ResNet, and the first convolution reads them beside the image, at the
    pixel itself. `layers.initialize` sets gains and biases from data, once, before training.

    Args:
        input_dim, latent_dim, image_size, likelihood: as in `PixelCNNDecoder`. hidden_dim: channels.
        n_layers: masked convolutions with a window, the first of type A. The others make blocks of two; where one is
            left over it follows the first.
        n_pointwise: 1x1 blocks after them. kernel_size: of the masked convolutions.
        receptive_field: columns of the window, in place of kernel_size, see `PixelCNNDecoder`.
        z_channels: maps of z, 4 where it is None; 0: the first convolution is given z as it is.
        tied: all blocks of a kind share their weights.

    ``decoder(x, z)`` runs the parts; z enters the first of them alone, and the others refuse it.

    Source: Chen et al. 2017, arXiv 1611.02731, appendix: 6 layers, 12 channels, 4 pointwise blocks, 4 maps.
    """

    least: ClassVar[dict[str, int]] = {**Decoder.least, "n_layers": 1}
    default_z_channels: ClassVar[int] = 4

    def __init__(
        self,
        input_dim: int = 1,
        latent_dim: int = 64,
        hidden_dim: int = 12,
        n_layers: int = 6,
        *,
        n_pointwise: int = 4,
        kernel_size: int = 3,
        receptive_field: int | None = None,
        z_channels: int | None = None,
        tied: bool = False,
        image_size: tuple[int, int] = (28, 28),
        likelihood: Likelihood | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            input_dim,
            latent_dim,
            hidden_dim,
            n_layers,
            image_size,
            z_channels=z_channels,
            spread_by=DeconvolutionalMap,
            likelihood=likelihood,
        )
        kernels = self._kernels([kernel_size] * n_layers, receptive_field)
        if kernels[0] < 3:
            self._refuse("kernel_size must be at least 3", kernels[0])
        if n_pointwise < 0:
            self._refuse("n_pointwise must be at least 0", n_pointwise)
        first, rest = kernels[: 2 - n_layers % 2], kernels[2 - n_layers % 2 :]
        if tied and len(set(rest)) > 1:
            self._refuse("receptive_field must give every block the same kernel where tied is set", rest)
        self.initial_conv = ConvOfZ(
            "A", input_dim, hidden_dim, first[0],
            cond_channels=self.z_channels, activation="elu" if first[1:] else "none", weight_norm=True,
            handed=self.handed, call=f"initial_conv(x, z), then {_OTHERS}", backend=backend,
        )  # fmt: skip
        self.second_conv = _convolution("B", hidden_dim, hidden_dim, first[1], "none", backend) if first[1:] else None

        def blocks(pairs: Sequence[Sequence[int]]) -> nn.ModuleList:
            return nn.ModuleList(
                MaskedResidualBlock(hidden_dim, pair, backend) for pair in (pairs[:1] if tied else pairs)
            )

        pairs = [rest[i : i + 2] for i in range(0, len(rest), 2)]
        self.repeats = (len(pairs), n_pointwise) if tied else (1, 1)
        self.decoder_layers = blocks(pairs)
        self.pointwise_layers = blocks([(1, 1)] * n_pointwise)
        self.final_conv = nn.Conv2d(hidden_dim, self.likelihood.params, 1)

    @property
    def blocks(self) -> list[MaskedResidualBlock]:
        """All blocks in turn, a tied block as often as it is run."""
        kinds = zip((self.decoder_layers, self.pointwise_layers), self.repeats, strict=True)
        return cast(list[MaskedResidualBlock], [block for layers, times in kinds for block in [*layers] * times])

    def parameters_of(self, x: Tensor, context: Tensor | None) -> Tensor:
        h = see(self.initial_conv, x, context=context)
        if self.second_conv is not None:
            h = self.second_conv(h)
        for block in self.blocks:
            h = block(h)
        return self.final_conv(F.elu(h))

    def write_program(self, program: Program) -> None:
        """Appends the stages of `parameters_of` to a sampler's program."""
        h = program.conv(self.initial_conv, 0)
        if self.second_conv is not None:
            h = program.conv(self.second_conv, h)
        for block in self.blocks:
            h = block.write(program, h)
        program.add([(program.activate(h, "elu"), self.final_conv.weight, CENTRE)], self.final_conv.bias)
