"""The code that users have today: ours is timed against it, in the same run."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import suppress

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vlae_fast as vf

from .gpu import captured


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
            gated = activate(
                F.conv2d(h, weight, bias, padding=weight.shape[-1] // 2) + F.linear(z, cond)[:, :, None, None], "gate"
            )
            h = gated + h if self.residual else gated
        return F.conv2d(h, *self.last)


@torch.inference_mode()
def naive_sample(decoder: Callable[[Tensor, Tensor], Tensor], z: Tensor, noise: Tensor, rows: int) -> Tensor:
    """One full forward pass per pixel of the first ``rows`` rows."""
    image = torch.zeros_like(noise)
    for i in range(rows):
        for j in range(noise.shape[3]):
            probability = torch.sigmoid(decoder(image, z)[:, :, i, j])
            image[:, :, i, j] = (noise[:, :, i, j] < probability).float()
    return image


def activate(x: Tensor, activation: str) -> Tensor:
    if activation == "gate":
        a, b = x.chunk(2, 1)
        return torch.tanh(a) * torch.sigmoid(b)
    return {"none": lambda v: v, "elu": F.elu, "relu": F.relu}[activation](x)


def graphed_naive_sample(
    decoder: Callable[[Tensor, Tensor], Tensor], z: Tensor, noise: Tensor, rows: int
) -> Callable[[], Tensor]:
    """`naive_sample` as replays of one CUDA graph: a forward pass, the draw, and on to the next pixel."""
    image, pixel = torch.zeros_like(noise), torch.zeros((), dtype=torch.long, device=noise.device)
    places = torch.arange(noise[0, 0].numel(), device=noise.device).view_as(noise[0, 0])

    @torch.inference_mode()
    def step() -> None:
        drawn = (noise < torch.sigmoid(decoder(image, z))).to(noise.dtype)
        image.copy_(torch.where(places == pixel, drawn, image))
        pixel.add_(1)

    replay = captured(step, noise.device)

    def sample() -> Tensor:
        image.zero_()
        pixel.zero_()
        for _ in range(rows * noise.shape[3]):
            replay()
        return image

    return sample


class PlainConv(nn.Module):
    """Masked convolution by a dense one: ``conv2d(x, weight * mask)``."""

    def __init__(self, layer: vf.MaskedConv2d) -> None:
        super().__init__()
        self.weight, self.bias, self.activation = layer.weight, layer.bias, layer.activation
        self.register_buffer("mask", layer.mask.to(layer.weight.dtype))
        self.cond = getattr(layer, "cond", None)

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        y = F.conv2d(x, self.weight * self.mask, self.bias, padding=self.weight.shape[-1] // 2)
        if z is not None and self.cond is not None:
            y = y + (self.cond(z) if z.dim() == 4 else F.linear(z, self.cond.weight[:, :, 0, 0])[:, :, None, None])
        return activate(y, self.activation)


class PlainLinear(nn.Module):
    """Masked linear layer by a dense one: ``linear(x, weight * mask)``."""

    def __init__(self, layer: vf.MaskedLinear) -> None:
        super().__init__()
        self.weight, self.bias, self.activation = layer.weight, layer.bias, layer.activation
        self.register_buffer("mask", vf.masks.linear_mask(layer.in_degrees, layer.out_degrees).to(layer.weight))

    def forward(self, x: Tensor) -> Tensor:
        return activate(F.linear(x, self.weight * self.mask, self.bias), self.activation)


def plain(model: nn.Module) -> nn.Module:
    """A copy of a model with every layer of ours replaced by plain PyTorch of the same parameters."""
    model = copy.deepcopy(model)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, vf.MaskedConv2d):
                setattr(parent, name, PlainConv(child))
            elif isinstance(child, vf.MaskedLinear):
                setattr(parent, name, PlainLinear(child))
    return model


def dense_forward(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], degrees: Sequence[Tensor]
) -> Callable[[], Tensor]:
    """One forward pass of a MADE by dense products, masked beforehand: the work that an inverse is measured by."""
    masked = [w * vf.masks.linear_mask(i, o) for w, i, o in zip(weights, degrees[:-1], degrees[1:], strict=True)]

    @torch.no_grad()
    def forward() -> Tensor:
        h = x
        for weight, bias in zip(masked[:-1], biases[:-1], strict=True):
            h = F.linear(h, weight, bias).relu()
        return F.linear(h, masked[-1], biases[-1])

    return forward


def dense_inverse(
    eps: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], degrees: Sequence[Tensor], *, graph: bool
) -> Callable[[], Tensor]:
    """The inverse as public libraries compute it: D forward passes. ``graph``: replays of one CUDA graph of a pass."""
    x = torch.zeros_like(eps)
    forward = dense_forward(x, weights, biases, degrees)

    @torch.no_grad()
    def step() -> None:
        shift, log_scale = forward().chunk(2, 1)
        x.copy_(shift + log_scale.exp() * eps)

    replay = captured(step, eps.device) if graph else step

    def inverse() -> Tensor:
        x.zero_()
        for _ in range(eps.shape[1]):
            replay()
        return x

    return inverse


def foreign_inverses(dim: int, hidden: tuple[int, ...], eps: Tensor) -> dict[str, Callable[[], object]]:
    """The inverse at eps of a masked autoregressive transform of these sizes, random weights, by zuko and by nflows.

    A library that is not installed (the extra ``bench``) is left out.
    """
    found: dict[str, Callable[[], object]] = {}
    with suppress(ImportError):
        from zuko.flows.autoregressive import MaskedAutoregressiveTransform

        zuko = MaskedAutoregressiveTransform(dim, hidden_features=hidden).to(eps.device)
        found["zuko"] = torch.no_grad()(lambda: zuko().inv(eps))
    with suppress(ImportError):
        from nflows.transforms import MaskedAffineAutoregressiveTransform

        blocks = len(hidden) - 1
        nflows = MaskedAffineAutoregressiveTransform(dim, hidden[0], num_blocks=blocks, use_residual_blocks=False)
        nflows.to(eps.device)
        found["nflows"] = torch.no_grad()(lambda: nflows.inverse(eps))
    return found
