"""Public modules, and accelerated ones, with inputs: what goes with the rest of torch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import vlae_fast as vf
from cases.foreign import DataMaskedConv, Gated, ProductMaskedConv, ProductMaskedLinear, made_masks
from cases.foreign_zoo import MaskedFlow


class Inverse(nn.Module):
    """The sampling direction of a flow as a module."""

    def __init__(self, flow: vf.AutoregressiveFlow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, eps: Tensor) -> tuple[Tensor, Tensor]:
        return self.flow.inverse(eps)


class Subject(NamedTuple):
    module: nn.Module
    inputs: tuple[Tensor, ...]

    def run(self, module: Callable[..., Any] | None = None, rows: slice = slice(None)) -> list[Tensor]:
        module = self.module if module is None else module
        return leaves(module(*(x[rows].clone() for x in self.inputs)))


def leaves(out: Any) -> list[Tensor]:
    return list(out) if isinstance(out, (tuple, list)) else [out]


def small_vlae() -> vf.VLAE:
    return vf.VLAE(latent_dim=4, hidden_dim=8, n_layers=2)


def accelerated(module: nn.Module) -> nn.Module:
    """With its masked layers replaced, and in evaluation mode."""
    assert vf.accelerate(module.eval(), measure=False).replaced  # so small, its own would run
    return module


def foreign_convolutions() -> nn.Sequential:
    gated = Gated(ProductMaskedConv("B", 8, 8, 3, padding=1))
    return nn.Sequential(DataMaskedConv("A", 1, 8, 5, padding=2), nn.ELU(), gated, nn.Conv2d(4, 1, 1))


def images(batch: int) -> Tensor:
    return torch.rand(batch, 1, 28, 28).round()


MAKERS: dict[str, Callable[[], Subject]] = {
    "MaskedConv2d": lambda: Subject(vf.MaskedConv2d("A", 1, 8, 7), (torch.randn(3, 1, 9, 9),)),
    "GatedMaskedConv2d": lambda: Subject(
        vf.GatedMaskedConv2d("B", 8, 8, 3, cond_channels=4), (torch.randn(3, 8, 9, 9), torch.randn(3, 4))
    ),
    "MaskedLinear": lambda: Subject(
        vf.MaskedLinear(torch.arange(5), torch.arange(5), activation="relu"), (torch.randn(3, 5),)
    ),
    "MADE": lambda: Subject(vf.MADE(5, 16, 10, context_dim=2), (torch.randn(3, 5), torch.randn(3, 2))),
    "AutoregressiveFlow": lambda: Subject(vf.AutoregressiveFlow(5, 16), (torch.randn(3, 5),)),
    "inverse": lambda: Subject(Inverse(vf.AutoregressiveFlow(5, 16)), (torch.randn(3, 5),)),
    "accelerated convolutions": lambda: Subject(accelerated(foreign_convolutions()), (torch.randn(3, 1, 9, 9),)),
    "accelerated layer": lambda: Subject(accelerated(ProductMaskedLinear(made_masks(5, 12)[1])), (torch.randn(3, 12),)),
    "accelerated flow": lambda: Subject(accelerated(MaskedFlow()), (torch.randn(3, 5),)),
    "PixelCNNDecoder": lambda: Subject(small_vlae().decoder, (images(3), torch.randn(3, 4))),
}


def assert_same(got: list[Tensor], want: list[Tensor], **tolerance: float) -> None:
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, **tolerance)
