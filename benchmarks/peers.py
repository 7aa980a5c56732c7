"""What users have today, in plain PyTorch: the code that ours is timed against, in the same run."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

import vlae_fast as vf


class PlainDecoder:
    """The forward pass of a `PixelCNNDecoder` as public PixelCNN code writes it: dense convolutions, gate by chunk.

    The weights are masked once, beforehand: kinder to the peer than the widely copied ``weight.data *= mask`` per call.
    """

    def __init__(self, decoder: vf.PixelCNNDecoder) -> None:
        self.residual = decoder.residual
        self.first = self._dense(decoder.initial_conv)
        self.layers = [
            (*self._dense(layer), layer.cond.weight.detach()[:, :, 0, 0]) for layer in decoder.decoder_layers
        ]
        self.last = (decoder.final_conv.weight.detach(), decoder.final_conv.bias.detach())

    @staticmethod
    def _dense(layer: vf.MaskedConv2d) -> tuple[Tensor, Tensor]:
        return layer.live_weight().detach(), layer.bias.detach()

    def __call__(self, x: Tensor, z: Tensor) -> Tensor:
        h = F.conv2d(x, *self.first, padding=self.first[0].shape[-1] // 2)
        for weight, bias, cond in self.layers:
            pre = F.conv2d(h, weight, bias, padding=weight.shape[-1] // 2) + F.linear(z, cond)[:, :, None, None]
            a, b = pre.chunk(2, 1)
            gated = torch.tanh(a) * torch.sigmoid(b)
            h = gated + h if self.residual else gated
        return F.conv2d(h, *self.last)


@torch.inference_mode()
def naive_sample(decoder: PlainDecoder, z: Tensor, noise: Tensor, rows: int | None = None) -> Tensor:
    """One full forward pass per pixel of the first ``rows`` rows."""
    image = torch.zeros_like(noise)
    for i in range(noise.shape[2] if rows is None else rows):
        for j in range(noise.shape[3]):
            probability = torch.sigmoid(decoder(image, z)[:, :, i, j])
            image[:, :, i, j] = (noise[:, :, i, j] < probability).float()
    return image
