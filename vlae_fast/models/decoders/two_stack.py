"""Gated PixelCNN of two stacks: one for the rows above, one for the row itself, and no blind spot."""

from __future__ import annotations

from typing import ClassVar, cast

from torch import Tensor, nn

from ...layers import GatedMaskedConv2d, MaskedConv2d
from ...sampling.program import Program
from ..likelihood_base import Likelihood
from .base import CENTRE, Decoder
from .handed import HandedZ, see


class TwoStackLayer(nn.Module):
    """One layer of both stacks: ``forward(v, h, z) -> (v, h)``.

    ``v' = gate(conv(v) + V z)`` over the rows above, ``h' = gate(conv(h) + L v' + V z)`` over the row's pixels to the
    left; a 1x1 convolution follows, and h is added where the layer is of type B.
    """

    takes_context: ClassVar[bool] = True

    def __init__(
        self, mask_type: str, in_channels: int, channels: int, kernel_size: int, handed: HandedZ, backend: str
    ) -> None:
        super().__init__()
        self.handed = handed

        def stack(name: str) -> GatedMaskedConv2d:
            return GatedMaskedConv2d(
                f"{name}_{mask_type}", in_channels, channels, kernel_size,
                cond_channels=handed.z_channels, backend=backend,
            )  # fmt: skip

        self.residual = mask_type == "B"
        self.vertical, self.horizontal = stack("vertical"), stack("horizontal")
        self.link = nn.Conv2d(channels, 2 * channels, 1, bias=False)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(
        self, v: Tensor, h: Tensor | None = None, z: Tensor | None = None, *, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """z: as in `HandedZ`; context: what it became."""
        call = "layer(v, h, z), both stacks, initial_conv with v = h = x"
        if h is None:
            self.handed.refuse(f"must be called as {call}", "one stack")
        if context is None:
            context = self.handed.context(z, call)
        v = self.vertical(v, context)
        out = self.out(self.horizontal(h, context, self.link(v)))
        return v, out + h if self.residual else out

    def write(self, program: Program, v: int, h: int) -> tuple[int, int]:
        v = program.conv(self.vertical, v)
        gated = program.conv(self.horizontal, h, also=[(v, self.link.weight, CENTRE)])
        residual = h if self.residual else -1
        return v, program.add([(gated, self.out.weight, CENTRE)], self.out.bias, residual=residual)


class TwoStackDecoder(Decoder):
    """Gated PixelCNN: a layer of type A, then ``n_layers`` of type B, each of a vertical and a horizontal stack.

    Arguments and shapes as in `PixelCNNDecoder`; every pixel of the window is seen. The vertical stack reaches the
    horizontal one after its gate, where the paper takes it before: one convolution with its gate in one pass each.

    Source: van den Oord et al. 2016, arXiv 1606.05328, figure 2.
    """

    default_z_channels: ClassVar[int] = 16

    def __init__(
        self,
        input_dim: int = 1,
        latent_dim: int = 32,
        hidden_dim: int = 64,
        n_layers: int = 3,
        *,
        kernel_size: int = 3,
        initial_kernel: int = 7,
        receptive_field: int | None = None,
        z_channels: int | None = None,
        image_size: tuple[int, int] = (28, 28),
        likelihood: Likelihood | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            input_dim, latent_dim, hidden_dim, n_layers, image_size, z_channels=z_channels, likelihood=likelihood
        )
        kernels = self._kernels([initial_kernel] + [kernel_size] * n_layers, receptive_field)
        if kernels[0] < 3:
            self._refuse("initial_kernel must be at least 3", kernels[0])
        self.initial_conv = TwoStackLayer("A", input_dim, hidden_dim, kernels[0], self.handed, backend)
        self.decoder_layers = nn.ModuleList(
            TwoStackLayer("B", hidden_dim, hidden_dim, kernel, self.handed, backend) for kernel in kernels[1:]
        )
        self.hidden_conv = MaskedConv2d("B", hidden_dim, hidden_dim, 1, activation="relu", backend=backend)
        self.final_conv = nn.Conv2d(hidden_dim, self.likelihood.params, 1)

    @property
    def layers(self) -> list[TwoStackLayer]:
        """All layers in turn."""
        return cast(list[TwoStackLayer], [self.initial_conv, *self.decoder_layers])

    def parameters_of(self, x: Tensor, context: Tensor | None) -> Tensor:
        v = h = x
        for layer in self.layers:
            v, h = see(layer, v, h, context=context)
        return self.final_conv(self.hidden_conv(h))

    def write_program(self, program: Program) -> None:
        """Appends the stages of `parameters_of` to a sampler's program."""
        v = h = 0
        for layer in self.layers:
            v, h = layer.write(program, v, h)
        hidden = program.conv(self.hidden_conv, h)
        program.add([(hidden, self.final_conv.weight, CENTRE)], self.final_conv.bias)
