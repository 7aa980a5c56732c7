"""A PixelCNN as everybody writes it: faster training by one line, and the same image from a fast sampler."""

import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vlae_fast as vf


class MaskedConv2d(nn.Conv2d):
    """The usual one: a full convolution with a masked weight."""

    mask: Tensor

    def __init__(self, kind: str, channels_in: int, channels_out: int, size: int) -> None:
        super().__init__(channels_in, channels_out, size, padding=size // 2)
        self.register_buffer("mask", torch.ones_like(self.weight))
        self.mask[:, :, size // 2, size // 2 + (kind == "B") :] = 0
        self.mask[:, :, size // 2 + 1 :] = 0

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=self.padding)


def milliseconds_of_a_step(model: nn.Module, images: Tensor) -> float:
    times = []
    for _ in range(5):
        start = time.perf_counter()
        F.binary_cross_entropy_with_logits(model(images), images).backward()
        times.append(1e3 * (time.perf_counter() - start))
    return min(times)


torch.manual_seed(0)
blocks = [layer for _ in range(3) for layer in (MaskedConv2d("B", 32, 32, 3), nn.ReLU())]
model = nn.Sequential(MaskedConv2d("A", 1, 32, 7), nn.ReLU(), *blocks, nn.Conv2d(32, 1, 1))
images, noise = torch.rand(32, 1, 28, 28).round(), torch.rand(1, 1, 28, 28)

before = milliseconds_of_a_step(model, images)
print(vf.accelerate(model))
print(f"training step: {before:.1f} ms before, {milliseconds_of_a_step(model, images):.1f} ms after")

sampler = vf.fast_sampler(model, (1, 28, 28))
start = time.perf_counter()
naive = vf.naive_sample(sampler.decoder, None, noise)  # a forward pass of the model for each pixel
between = time.perf_counter()
image = sampler.sample(None, noise)
after = time.perf_counter()
print(f"an image: {1e3 * (between - start):.0f} ms by 784 passes before, ", end="")
print(f"{1e3 * (after - between):.1f} ms by {sampler.steps} steps after; same: {image.equal(naive)}")
