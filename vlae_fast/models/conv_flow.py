"""Convolutional autoregressive flow: the prior of a z that is a map."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..layers import MaskedConv2d
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
        channels, map_size: D and (h, w) of the map. hidden_dim: channels of the convolutions. n_hidden: of them, at
            least 1. transform: ``affine`` or ``mean-only``, see `Flow`. backend: of the layers.

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
        self.shape, self.order = (channels, *map_size), (2, 3)
        outputs = 2 * channels if transform == "affine" else channels
        self.steps = nn.ModuleList(
            ConvStep(channels, outputs, hidden_dim, n_hidden, kernel_size, backend) for _ in range(n_steps)
        )

    def inverse(self, eps: Tensor) -> tuple[Tensor, Tensor]:
        self._check(eps, "eps")
        log_det = eps.new_zeros(eps.shape[0])
        for i, step in reversed(list(enumerate(self.steps))):
            eps, step_log_det = _invert(step, eps)
            log_det = log_det + step_log_det
            eps = eps.flip(self.order) if i else eps
        return eps, log_det


def _invert(step: nn.Module, eps: Tensor) -> tuple[Tensor, Tensor]:
    """z and log_det of one step, by one pass per pixel of the map."""
    channels, log_det = eps.shape[1], eps.new_zeros(eps.shape[0])
    z = torch.zeros_like(eps)
    for row in range(eps.shape[2]):
        for column in range(eps.shape[3]):
            params = step(z)[:, :, row, column]
            pixel = eps[:, :, row, column]
            if params.shape[1] > channels:
                pixel = pixel * torch.exp(params[:, channels:])
                log_det = log_det - params[:, channels:].sum(1)
            z = z.clone()  # its earlier state is what autograd needs of the passes before
            z[:, :, row, column] = pixel + params[:, :channels]
    return z, log_det
