"""Convolutional autoregressive flow: the prior of a z that is a map."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import MaskedConv2d
from ..plan import Emit
from ..sampling import PixelCNNSampler
from ..sampling.program import Program
from .flow import Flow, check_flow


class ConvStep(nn.Module):
    """Masked convolutions with ELU, the first of type A, and a 1x1 one that starts at zero: shift and log_scale."""

    def __init__(
        self, channels: int, outputs: int, hidden_dim: int, n_hidden: int, kernel_size: int, backend: str
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(
                MaskedConv2d(
                    "B" if i else "A",
                    hidden_dim if i else channels,
                    hidden_dim,
                    kernel_size,
                    activation="elu",
                    backend=backend,
                )
                for i in range(n_hidden)
            )
        )
        self.last = nn.Conv2d(hidden_dim, outputs, 1)
        for p in self.last.parameters():
            nn.init.zeros_(p)

    def forward(self, z: Tensor) -> Tensor:
        return self.last(self.layers(z))


class ConvFlow(Flow):
    """A flow of ``n_steps`` stacks of masked convolutions over a latent map, the raster order reversed between steps.

    All channels of a pixel of the map are transformed together, given the pixels before it in raster order. The last
    convolutions start at zero: the flow starts as the identity (up to the order).

    Args:
        channels, map_size: D and (h, w) of the map. n_steps: stacks. hidden_dim: channels of the convolutions.
        n_hidden: convolutions of a stack, at least 1. kernel_size: theirs, odd, at least 3.
        transform: ``affine`` or ``mean-only``, see `Flow`. backend: of the layers.

    ``forward(z [B, D, h, w]) -> (eps [B, D, h, w], log_det [B])`` and ``inverse(eps) -> (z, log_det)``, both with
    ``log_det = log|det d eps/d z|`` in nats.

    Source: Chen et al. 2017, arXiv 1611.02731, section 4.3 and appendix.
    """

    def __init__(
        self,
        channels: int,
        map_size: tuple[int, int],
        hidden_dim: int,
        *,
        n_steps: int = 2,
        n_hidden: int = 2,
        transform: str = "affine",
        kernel_size: int = 3,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        check_flow("ConvFlow", transform, n_steps)
        sizes = {"channels": channels, "map_size": min(map_size), "hidden_dim": hidden_dim, "n_hidden": n_hidden}
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"ConvFlow: {name} must be positive, got {value}")
        if kernel_size < 3:
            raise ValueError(f"ConvFlow: kernel_size must be at least 3, got {kernel_size}")
        self.shape, self.order, self.backend = (channels, *map_size), (2, 3), backend
        outputs = 2 * channels if transform == "affine" else channels
        self.steps = nn.ModuleList(
            ConvStep(channels, outputs, hidden_dim, n_hidden, kernel_size, backend) for _ in range(n_steps)
        )

    def inverse(self, eps: Tensor) -> tuple[Tensor, Tensor]:
        """z and log_det; one pass per pixel where a gradient may be asked for, else everything is computed once."""
        self._check(eps, "eps")
        log_det = eps.new_zeros(eps.shape[0])
        inputs = (eps, *self.parameters())
        differentiable = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
        steps = [step for step in self.steps if isinstance(step, ConvStep)]
        for i, step in reversed(list(enumerate(steps))):
            eps, log_scale = invert_by_passes(step, eps) if differentiable else self._invert_by_sampler(step, eps)
            log_det = log_det - log_scale.flatten(1).sum(1)
            eps = eps.flip(self.order) if i else eps
        return eps, log_det

    @property
    def map_shape(self) -> tuple[int, int, int]:
        """(D, h, w) of one z."""
        channels, height, width = self.shape
        return channels, height, width

    def _invert_by_sampler(self, step: ConvStep, eps: Tensor) -> tuple[Tensor, Tensor]:
        decoder = Transform(step, self.map_shape)
        z, params = PixelCNNSampler(decoder, backend=self.backend).sample_with_logits(None, noise=eps)
        return z, params[:, self.shape[0] :]


class Transform:
    """A step as a sampler sees a decoder: the pixel is ``shift + exp(log_scale) * noise``, and the noise is eps."""

    latent_dim = 0

    def __init__(self, step: ConvStep, shape: tuple[int, int, int]) -> None:
        self.step, self.input_dim, self.image_size = step, shape[0], shape[1:]
        self.likelihood = _Affine()
        self.unscaled = 2 * shape[0] - step.last.out_channels  # channels of log_scale that are 0: all or none

    def __call__(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        return F.pad(self.step(x), (0, 0, 0, 0, 0, self.unscaled))

    def write_program(self, program: Program) -> None:
        buffer = 0
        for layer in self.step.layers:
            if isinstance(layer, MaskedConv2d):
                buffer = program.conv(layer, buffer)
        weight, bias = self.step.last.parameters()
        padded = F.pad(weight, (0, 0, 0, 0, 0, 0, 0, self.unscaled))
        program.add([(buffer, padded, ((0, 0),))], F.pad(bias, (0, self.unscaled)))


class _Affine(NamedTuple):
    emit: Emit = Emit("affine", levels=0)


def invert_by_passes(step: nn.Module, eps: Tensor) -> tuple[Tensor, Tensor]:
    """The specification of a step's inverse, z and log_scale: one pass per pixel of the map, in raster order."""
    channels = eps.shape[1]
    z, log_scale = torch.zeros_like(eps), torch.zeros_like(eps)
    for row, column in itertools.product(range(eps.shape[2]), range(eps.shape[3])):
        params = step(z)[:, :, row, column]
        z, log_scale = z.clone(), log_scale.clone()  # their earlier states are what autograd needs
        if params.shape[1] > channels:
            log_scale[:, :, row, column] = params[:, channels:]
        z[:, :, row, column] = params[:, :channels] + torch.exp(log_scale[:, :, row, column]) * eps[:, :, row, column]
    return z, log_scale
