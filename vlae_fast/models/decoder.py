"""The default decoder: one stack of masked convolutions, conditioned on z."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import GatedMaskedConv2d, MaskedConv2d


class CodeMap(nn.Module):
    """Spreads a code over the image: z ``[B, D]`` -> ``[B, channels, H, W]``, smooth on the scale of four pixels.

    A decoder of a small window does not see where it is: given the same z everywhere it cannot place a stroke,
    and learns to ignore z. A map tells each pixel its part of the code.
    """

    def __init__(self, latent_dim: int, channels: int, image_size: tuple[int, int], hidden: int = 256) -> None:
        super().__init__()
        self.image_size = image_size
        self.coarse = (channels, (image_size[0] + 3) // 4, (image_size[1] + 3) // 4)
        self.hidden = nn.Linear(latent_dim, hidden)
        self.out = nn.Linear(hidden, math.prod(self.coarse))

    def forward(self, z: Tensor) -> Tensor:
        coarse = F.elu(self.out(F.elu(self.hidden(z)))).unflatten(1, self.coarse)
        return F.interpolate(coarse, self.image_size, mode="bilinear", align_corners=False)


class PixelCNNDecoder(nn.Module):
    """Single-stack gated PixelCNN: a type A convolution, gated type B layers conditioned on z, a 1x1 convolution.

    Args:
        input_dim: image channels C. latent_dim: D of z, 0 for no z. hidden_dim: channels. n_layers: gated layers.
        kernel_size: of the gated layers. initial_kernel: of the type A layer. A small window forces the use of z
            (arXiv 1611.02731, section 2), and makes the wavefront wide.
        z_channels: 0: every pixel is given z as it is; else a `CodeMap` spreads z over the image in so many channels.
        residual: adds a gated layer's input to its output. image_size: (H, W).

    Shapes: x ``[B, C, H, W]``, z ``[B, D]`` or ``[B, D, H, W]`` -> Bernoulli logits ``[B, C, H, W]``. The logits of
    a pixel depend on the pixels before it in raster order only.
    """

    def __init__(
        self,
        input_dim: int = 1,
        latent_dim: int = 32,
        hidden_dim: int = 64,
        n_layers: int = 3,
        *,
        kernel_size: int = 3,
        initial_kernel: int = 7,
        z_channels: int = 0,
        residual: bool = False,
        image_size: tuple[int, int] = (28, 28),
        backend: str = "auto",
    ) -> None:
        super().__init__()
        least = {"input_dim": 1, "latent_dim": 0, "hidden_dim": 1, "n_layers": 0, "z_channels": 0}
        given = dict(zip(least, (input_dim, latent_dim, hidden_dim, n_layers, z_channels), strict=True))
        for name, value in given.items():
            if value < least[name]:
                raise ValueError(f"PixelCNNDecoder: {name} must be at least {least[name]}, got {value}")
        if min(image_size) < 1 or len(image_size) != 2:
            raise ValueError(f"PixelCNNDecoder: image_size must be (H, W), both positive, got {tuple(image_size)}")
        if z_channels and not latent_dim:
            raise ValueError(f"PixelCNNDecoder: z_channels must be 0 where latent_dim is 0, got {z_channels}")
        self.input_dim, self.latent_dim, self.residual = input_dim, latent_dim, residual
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.z_channels = z_channels or latent_dim
        self.code_map = CodeMap(latent_dim, z_channels, self.image_size) if z_channels else None
        self.initial_conv = MaskedConv2d("A", input_dim, hidden_dim, initial_kernel, backend=backend)
        self.decoder_layers = nn.ModuleList(
            GatedMaskedConv2d("B", hidden_dim, hidden_dim, kernel_size, cond_channels=self.z_channels, backend=backend)
            for _ in range(n_layers)
        )
        self.final_conv = nn.Conv2d(hidden_dim, input_dim, 1)

    def check_z(self, z: Tensor | None) -> None:
        """Raises ValueError where z does not fit this decoder."""
        height, width = self.image_size
        shapes = ((self.latent_dim,), (self.z_channels, height, width))
        if self.latent_dim and (z is None or tuple(z.shape[1:]) not in shapes):
            got = None if z is None else tuple(z.shape)
            rule = f"[B, {self.latent_dim}] or [B, {self.z_channels}, {height}, {width}]"
            raise ValueError(f"PixelCNNDecoder: z must be {rule}, got {got}")
        if not self.latent_dim and z is not None:
            raise ValueError(f"PixelCNNDecoder: z must be None where latent_dim is 0, got {tuple(z.shape)}")

    def spread(self, z: Tensor) -> Tensor:
        """What the layers are conditioned on: z itself, or its map ``[B, z_channels, H, W]``."""
        return z if self.code_map is None or z.dim() == 4 else self.code_map(z)

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        height, width = self.image_size
        if x.dim() != 4 or tuple(x.shape[1:]) != (self.input_dim, height, width):
            raise ValueError(
                f"PixelCNNDecoder: x must be [B, {self.input_dim}, {height}, {width}], got {tuple(x.shape)}"
            )
        self.check_z(z)
        z = None if z is None else self.spread(z)
        h = self.initial_conv(x)
        for layer in self.decoder_layers:
            h = layer(h, z) + h if self.residual else layer(h, z)
        return self.final_conv(h)
