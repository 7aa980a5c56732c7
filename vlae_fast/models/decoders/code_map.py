"""Networks that spread a code over the image."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...backends.memory_format import nchw
from ...layers import WeightNormConv2d


class CodeMap(nn.Module):
    """Spreads a code over the image: z ``[B, D]`` -> ``[B, channels, H, W]``, smooth on the scale of four pixels.

    A decoder of a small window does not see where it is: given the same z everywhere it cannot place a stroke,
    and learns to ignore z. A map tells each pixel its part of the code.

    Args:
        latent_dim: D. channels: of the map. image_size: (H, W). hidden: units of the one hidden layer, ELU.
    """

    takes_batches = True  # a sampler may give it all rows at once

    def __init__(self, latent_dim: int, channels: int, image_size: tuple[int, int], hidden: int = 256) -> None:
        super().__init__()
        self.image_size = image_size
        self.coarse = (channels, (image_size[0] + 3) // 4, (image_size[1] + 3) // 4)
        self.hidden = nn.Linear(latent_dim, hidden)
        self.out = nn.Linear(hidden, math.prod(self.coarse))

    def forward(self, z: Tensor) -> Tensor:
        """``[B, D]`` -> ``[B, channels, H, W]``, channels_last: as every layer reads it."""
        return self._enlarged(F.elu(self.out(F.elu(self.hidden(z)))))

    def by_layers(self, z: Tensor, linear: Callable[[Tensor, nn.Linear, str], Tensor]) -> Tensor:
        """As `forward`, each layer by ``linear(x, layer, activation)``: each row has the bits that it has alone."""
        coarse = linear(linear(z, self.hidden, "elu"), self.out, "elu")
        return torch.cat([self._enlarged(row.clone()) for row in coarse.split(1)])

    def _enlarged(self, coarse: Tensor) -> Tensor:
        coarse = nchw(coarse.unflatten(1, self.coarse).permute(0, 2, 3, 1).contiguous())
        return F.interpolate(coarse, self.image_size, mode="bilinear", align_corners=False)


class ResidualBlock(nn.Module):
    """``h + conv(elu(conv(elu(h))))``, 3x3, weight-normalised."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = WeightNormConv2d(channels, channels, 3, padding=1)
        self.second = WeightNormConv2d(channels, channels, 3, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.second(F.elu(self.first(F.elu(h))))


class DeconvolutionalMap(nn.Module):
    """z ``[B, D]`` -> ``[B, channels, H, W]``: a linear layer and a ResNet that doubles the resolution twice.

    Doubling is a convolution to four times the channels, which become the four pixels of a square: a transposed
    convolution of stride 2 whose every output sees as much as its neighbour.
    """

    takes_batches = True

    def __init__(self, latent_dim: int, channels: int, image_size: tuple[int, int], hidden: int = 32) -> None:
        super().__init__()
        self.image_size = image_size
        self.coarse = (hidden, (image_size[0] + 3) // 4, (image_size[1] + 3) // 4)
        self.linear = nn.Linear(latent_dim, math.prod(self.coarse))
        doubling = (WeightNormConv2d(hidden, 4 * hidden, 3, padding=1), nn.PixelShuffle(2), ResidualBlock(hidden))
        again = (WeightNormConv2d(hidden, 4 * hidden, 3, padding=1), nn.PixelShuffle(2), ResidualBlock(hidden))
        self.features = nn.Sequential(ResidualBlock(hidden), *doubling, *again, nn.ELU())
        self.out = WeightNormConv2d(hidden, channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        fine = self.out(self.features(self.linear(z).unflatten(1, self.coarse)))
        return fine[:, :, : self.image_size[0], : self.image_size[1]]
