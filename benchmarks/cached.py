"""The peer that samplers are held against: every activation computed once, in plain PyTorch, one pixel at a time."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

import vlae_fast as vf


class CachedLayer:
    """A masked convolution at one pixel: ``[B, taps * C_in] -> [B, P]``, read from a padded cache of its input.

    The views of the cache that each pixel needs are cut beforehand: only the arithmetic is left for a pixel.
    """

    def __init__(self, layer: vf.MaskedConv2d, batch: int, size: tuple[int, int]) -> None:
        weight, margin = layer.live_weight().detach(), layer.weight.shape[-1] // 2
        height, width = size
        self.cache = weight.new_zeros(batch, height + margin, width + 2 * margin, weight.shape[1])
        self.inside = self.cache[:, margin:, margin : margin + width]
        taps = sorted(layer.taps)  # in raster order: those of a row are neighbours in the cache
        live = torch.stack([weight[:, :, margin + dy, margin + dx] for dy, dx in taps], 1)
        self.weight, self.bias = live.flatten(1).t(), layer.bias.detach()
        columns = {dy: [dx for y, dx in taps if y == dy] for dy, _ in taps}
        self.pixels = [self.inside[:, i, j] for i, j in product(range(height), range(width))]
        self.windows = [
            [
                self.cache[:, margin + i + dy, margin + j + dxs[0] : margin + j + dxs[-1] + 1].flatten(1)
                for dy, dxs in columns.items()
            ]
            for i, j in product(range(height), range(width))
        ]

    def __call__(self, pixel: int, bias: Tensor) -> Tensor:
        return torch.addmm(bias, torch.cat(self.windows[pixel], 1), self.weight)


class CachedSampler:
    """The algorithm of fast-pixel-cnn (Ramachandran et al. 2017, arXiv 1704.06001) for a `PixelCNNDecoder`.

    One column of each layer is computed per pixel. The caches are kept from call to call: a pixel is written before it
    is read, and their margins stay zero.
    """

    def __init__(self, decoder: vf.PixelCNNDecoder, batch: int) -> None:
        self.residual = decoder.residual
        self.first = CachedLayer(decoder.initial_conv, batch, decoder.image_size)
        self.layers = [CachedLayer(layer, batch, decoder.image_size) for layer in decoder.decoder_layers]
        self.conds = [layer.cond.weight.detach()[:, :, 0, 0].t() for layer in decoder.decoder_layers]
        self.last = decoder.final_conv.bias.detach(), decoder.final_conv.weight.detach()[:, :, 0, 0].t()

    @torch.inference_mode()
    def sample(self, z: Tensor, noise: Tensor) -> Tensor:
        """Images of z ``[B, D]`` and noise ``[B, C, H, W]``, equal to the naive sampler's."""
        biases = [torch.addmm(layer.bias, z, cond) for layer, cond in zip(self.layers, self.conds, strict=True)]
        gated = list(zip(self.layers, biases, strict=True))
        for pixel, threshold in enumerate(noise.flatten(2).permute(2, 0, 1).contiguous().unbind()):
            h = self.first(pixel, self.first.bias)
            for layer, bias in gated:
                layer.pixels[pixel].copy_(h)
                a, b = layer(pixel, bias).chunk(2, 1)
                out = torch.tanh(a).mul_(torch.sigmoid(b))
                h = out.add_(h) if self.residual else out
            probability = torch.sigmoid(torch.addmm(self.last[0], h, self.last[1]))
            torch.lt(threshold, probability, out=self.first.pixels[pixel])
        return self.first.inside.permute(0, 3, 1, 2).clone()
