"""The default decoder: one stack of gated masked convolutions, conditioned on z."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from torch import Tensor, nn

from ...layers import MaskedConv2d
from ...layers.conv import carries_residual
from ..likelihood_base import Likelihood
from ..shapes import each
from .base import Decoder
from .handed import GatedLayer, can_share, see


class PixelCNNDecoder(Decoder):
    """Single-stack gated PixelCNN: a type A convolution, gated type B layers conditioned on z, a 1x1 convolution.

    Args:
        input_dim: image channels C. latent_dim: D of z, 0 for no z. hidden_dim: channels. n_layers: gated layers.
        kernel_size: of the gated layers. initial_kernel: of the type A layer. A small window forces the use of z
            (arXiv 1611.02731, section 2), and makes the wavefront wide.
        receptive_field: columns of the window, in place of both kernel sizes: the layers share it among them. A
            single stack is blind to some pixels at the upper right of it; printing the decoder says how many it sees.
        z_channels: a `CodeMap` spreads z over the image in so many channels, 16 where it is None; 0: every pixel is
            given z as it is.
        residual: adds a gated layer's input to its output. image_size: (H, W).
        likelihood: of the pixels; its ``params`` is P. None: Bernoulli, P = C.

    Shapes: x ``[B, C, H, W]``, z ``[B, D]`` or ``[B, D, H, W]`` -> parameters ``[B, P, H, W]``, Bernoulli: the logits.
    Those of a pixel depend on the pixels before it in raster order only.

    The parts in turn are the decoder; a layer maps z itself and adds its residual. Equivalent to::

        h = decoder.initial_conv(x)
        for layer in decoder.decoder_layers:
            h = layer(h, z)
        logits = decoder.final_conv(h)
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
        residual: bool = False,
        image_size: tuple[int, int] = (28, 28),
        likelihood: Likelihood | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            input_dim, latent_dim, hidden_dim, n_layers, image_size, z_channels=z_channels, likelihood=likelihood
        )
        kernels = self._kernels([initial_kernel] + [kernel_size] * n_layers, receptive_field)
        self.residual = residual
        self.initial_conv = MaskedConv2d("A", input_dim, hidden_dim, kernels[0], backend=backend)
        self.decoder_layers = nn.ModuleList(
            GatedLayer(
                "B",
                hidden_dim,
                hidden_dim,
                kernel,
                cond_channels=self.z_channels,
                residual=residual,
                handed=self.handed,
                backend=backend,
            )
            for kernel in kernels[1:]
        )
        self.final_conv = nn.Conv2d(hidden_dim, self.likelihood.params, 1)

    def parameters_of(self, x: Tensor, context: Tensor | None) -> Tensor:
        return self._after_first(self.initial_conv(x), self.decoder_layers, context)

    def parameters_of_draws(self, x: Tensor, context: Tensor | None, draws: int) -> Tensor:
        if type(self).parameters_of is not PixelCNNDecoder.parameters_of:  # a subclass computes something else
            return super().parameters_of_draws(x, context, draws)
        h, layers = self.initial_conv(x), self.decoder_layers
        if len(layers) and can_share(first := layers[0], context):
            assert context is not None
            return self._after_first(first.of_draws(h, context, draws), layers[1:], context)
        return self._after_first(each(h, draws), layers, context)

    def _after_first(self, h: Tensor, layers: Iterable[nn.Module], context: Tensor | None) -> Tensor:
        for layer in layers:
            out = see(layer, h, context=context)
            h = out + h if self.residual and not carries_residual(layer) else out
        return self.final_conv(h)
