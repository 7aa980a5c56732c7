"""Layers with or without normalisation, of which encoders and the decoders of plain VAEs are built."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..layers import WeightNormConv2d, WeightNormConvTranspose2d, WeightNormLinear

# none: the plain layer. batch: batch normalisation of its output, in place of its bias (Ioffe and Szegedy 2015, arXiv
# 1502.03167). weight: weight normalisation (Salimans and Kingma 2016, arXiv 1602.07868).
NORMS = ("none", "batch", "weight")
ACTIVATIONS = {"elu": nn.ELU, "relu": nn.ReLU}  # of encoders


def convolution(before: int, after: int, *, stride: int, norm: str) -> list[nn.Module]:
    """A 3x3 convolution, as every kind of normalisation has it."""
    return _layer(nn.Conv2d, WeightNormConv2d, nn.BatchNorm2d, norm, before, after, 3, stride=stride, padding=1)


def linear(before: int, after: int, *, norm: str) -> list[nn.Module]:
    """A linear layer, as every kind of normalisation has it."""
    return _layer(nn.Linear, WeightNormLinear, nn.BatchNorm1d, norm, before, after)


def transposed(before: int, after: int, *, norm: str, **how: Any) -> list[nn.Module]:
    """A transposed convolution, as every kind of normalisation has it; how: its arguments beside the channels."""
    return _layer(nn.ConvTranspose2d, WeightNormConvTranspose2d, nn.BatchNorm2d, norm, before, after, **how)


def _layer(
    plain: type[nn.Module],
    weight_normalized: type[nn.Module],
    batch_norm: type[nn.Module],
    norm: str,
    before: int,
    after: int,
    *args: Any,
    **how: Any,
) -> list[nn.Module]:
    if norm == "weight":
        return [weight_normalized(before, after, *args, **how)]
    if norm == "batch":  # the mean is taken away, and a bias with it
        return [plain(before, after, *args, bias=False, **how), batch_norm(after)]
    return [plain(before, after, *args, **how)]
