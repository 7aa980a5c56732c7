"""The posterior's networks: image -> mean and log-variance of z, and the context that a flow posterior gets."""

from __future__ import annotations

import math
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backends.memory_format import channels_last
from ..layers import WeightNormConv2d
from .labels import check_no_labels, one_hot
from .normalization import ACTIVATIONS, convolution, linear
from .shapes import check_images

__all__ = [
    "ENCODERS",
    "ConvEncoder",
    "Encoder",
    "FullyConnectedEncoder",
    "ResNetEncoder",
    "Sizes",
    "StridedEncoder",
    "make_encoder",
]


class Sizes(NamedTuple):
    """Sizes and options that every encoder is built from.

    input_dim: image channels C. latent_dim: D. hidden_dim: its meaning depends on the kind. image_size: (H, W).
    context_dim: channels of the context beside mu and logvar. n_classes: 0 for no labels. latent_map: (h, w) makes z
    the channels of a map, ``latent_dim / (h w)`` of them, so that nearby elements come from nearby pixels; None: every
    element of z sees the whole image. norm: one of ``NORMS``, of all layers but the last. activation: a name in
    ``ACTIVATIONS``. units: of a linear layer between the convolutions and the last layer, 0: none, None: as many as the
    kind has. tapered: mlp: the second hidden layer is half as wide as the first.
    """

    input_dim: int
    latent_dim: int
    hidden_dim: int
    image_size: tuple[int, int]
    context_dim: int = 0
    n_classes: int = 0
    latent_map: tuple[int, int] | None = None
    norm: str = "none"
    activation: str = "elu"
    units: int | None = None
    tapered: bool = False


class Encoder(nn.Module):
    """x ``[B, C, H, W]`` -> mu, logvar ``[B, D]``: ``features``, then ``head``. Labels enter as a constant map a class.

    sizes: of input, output and what is between.
    """

    reads_channels_last: ClassVar[bool] = True  # its features are convolutions
    features: nn.Module
    head: nn.Module

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.image_shape = (sizes.input_dim, *sizes.image_size)
        self.latent_dim, self.n_classes, self.context_dim = sizes.latent_dim, sizes.n_classes, sizes.context_dim

    def forward(self, x: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """mu and logvar, ``[B, D]`` each."""
        mu, logvar, _ = self.with_context(x, labels)
        return mu, logvar

    def with_context(self, x: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """mu and logvar, ``[B, D]`` each, and the context ``[B, context_dim]`` of a flow posterior."""
        who = type(self).__name__
        check_images(who, x, self.image_shape)
        if self.n_classes:
            return self.of_classes(x, one_hot(who, labels, self.n_classes, x))
        check_no_labels(who, labels)
        return self._outputs(x)

    def of_classes(self, x: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`with_context` of a class-conditional model, of images x.

        classes: the labels, one-hot, ``[B, n_classes]``.
        """
        return self._outputs(self._join(x, classes))

    def _outputs(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.reads_channels_last and x.device.type == "cpu":
            x = channels_last(x)  # of oneDNN's two ways the faster one, from 64 channels on by a quarter
        mu, logvar, context = self.head(self.features(x)).split((self.latent_dim, self.latent_dim, self.context_dim), 1)
        return mu, logvar, context

    def _join(self, x: Tensor, classes: Tensor) -> Tensor:
        return torch.cat([x, classes[:, :, None, None].expand(-1, -1, *x.shape[2:])], 1)


class MapHead(nn.Module):
    """Feature maps ``[B, F, H, W]`` -> ``[B, 2 D + context]``: pooled to (h, w), a 1x1 convolution for z's maps."""

    def __init__(self, channels: int, sizes: Sizes, latent_map: tuple[int, int]) -> None:
        super().__init__()
        self.latent_map = latent_map
        self.maps = nn.Conv2d(channels, 2 * sizes.latent_dim // math.prod(latent_map), 1)
        self.context = nn.Linear(channels * math.prod(latent_map), sizes.context_dim) if sizes.context_dim else None

    def forward(self, features: Tensor) -> Tensor:
        pooled = F.adaptive_avg_pool2d(features, self.latent_map)
        out = self.maps(pooled).flatten(1)
        return out if self.context is None else torch.cat([out, self.context(pooled.flatten(1))], 1)


class ConvEncoder(Encoder):
    """Three convolutions of stride 1, 2, 2 and a linear layer."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        hidden, activation = sizes.hidden_dim, ACTIVATIONS[sizes.activation]
        before = sizes.input_dim + sizes.n_classes
        layers: list[nn.Module] = []
        for after, stride in ((hidden // 2, 1), (hidden, 2), (hidden, 2)):
            layers += [*convolution(before, after, stride=stride, norm=sizes.norm), activation()]
            before = after
        self.features = nn.Sequential(*layers)
        tail, self.head = _tail(hidden, 2, sizes)
        self.features.extend(tail)


class StridedEncoder(Encoder):
    """Three convolutions of stride 2 with hidden / 4, hidden / 2, hidden channels, two linear layers: a plain VAE's.

    The first linear layer has 4 hidden units unless ``units`` says how many, 0 for no such layer.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        widths = [max(1, sizes.hidden_dim // 4), max(1, sizes.hidden_dim // 2), sizes.hidden_dim]
        channels = [sizes.input_dim + sizes.n_classes, *widths]
        layers: list[nn.Module] = []
        for before, after in zip(channels[:-1], widths, strict=True):
            layers += [*convolution(before, after, stride=2, norm=sizes.norm), ACTIVATIONS[sizes.activation]()]
        tail, self.head = _tail(widths[-1], 3, sizes, units=4 * sizes.hidden_dim)
        self.features = nn.Sequential(*layers, *tail)


class FullyConnectedEncoder(Encoder):
    """Two hidden layers of hidden_dim units, or half as many in the second; labels are concatenated to the pixels."""

    reads_channels_last = False

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        for name, value in (("latent_map", sizes.latent_map), ("encoder_units", sizes.units)):
            if value is not None:
                raise ValueError(f"FullyConnectedEncoder: {name} must be None, got {value}")
        hidden, activation = sizes.hidden_dim, ACTIVATIONS[sizes.activation]
        second = hidden // 2 if sizes.tapered else hidden
        self.features = nn.Sequential(
            nn.Flatten(),
            *linear(math.prod(self.image_shape) + sizes.n_classes, hidden, norm=sizes.norm),
            activation(),
            *linear(hidden, second, norm=sizes.norm),
            activation(),
        )
        self.head = nn.Linear(second, _outputs(sizes))

    def _join(self, x: Tensor, classes: Tensor) -> Tensor:
        return torch.cat([x.flatten(1), classes], 1)


class ResidualBlock(nn.Module):
    """``skip(x) + conv(act(conv(act(x))))``; with stride 2 both ways halve the image.

    norm: batch normalisation is that of the input of each activation.
    """

    def __init__(self, before: int, after: int, stride: int, *, norm: str, activation: str) -> None:
        super().__init__()
        weight_norm = norm == "weight"
        self.first = WeightNormConv2d(before, after, 3, stride=stride, padding=1, weight_norm=weight_norm)
        self.second = WeightNormConv2d(after, after, 3, padding=1, weight_norm=weight_norm)
        self.skip: nn.Module = nn.Identity()
        if stride > 1 or before != after:
            self.skip = WeightNormConv2d(before, after, 3, stride=stride, padding=1, weight_norm=weight_norm)
        self.first_norm, self.second_norm = _batch_norm(before, norm), _batch_norm(after, norm)
        self.activation = ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        inside = self.first(self.activation(self.first_norm(x)))
        return self.skip(x) + self.second(self.activation(self.second_norm(inside)))


def _batch_norm(channels: int, norm: str) -> nn.Module:
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.Identity()


class ResNetEncoder(Encoder):
    """Three stages of two residual blocks, the second of stride 2, of hidden / 2, hidden, hidden channels.

    With hidden_dim = 32, on 28x28: 16, 32, 32 channels at 14, 7, 4 and 450 units, as in the IAF paper. A latent map
    leaves the units out, and the third stage's stride: its maps are those of a quarter of the image. Where
    weight-normalised, `layers.initialize` sets gains and biases from data, once, before training; the units are plain.

    Source: Kingma et al. 2016, arXiv 1606.04934, appendix C; weight norm: Salimans and Kingma 2016, arXiv 1602.07868.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        halvings = 3 if sizes.latent_map is None else 2
        channels = [max(1, sizes.hidden_dim // 2), sizes.hidden_dim, sizes.hidden_dim]
        before = channels[0]
        weight_norm = sizes.norm == "weight"
        layers: list[nn.Module] = [
            WeightNormConv2d(sizes.input_dim + sizes.n_classes, before, 3, padding=1, weight_norm=weight_norm)
        ]
        for i, after in enumerate(channels):
            stride = 2 if i < halvings else 1
            layers.append(ResidualBlock(before, after, 1, norm=sizes.norm, activation=sizes.activation))
            layers.append(ResidualBlock(after, after, stride, norm=sizes.norm, activation=sizes.activation))
            before = after
        if sizes.norm == "batch":
            layers.append(nn.BatchNorm2d(before))
        plain_units = sizes._replace(norm="none") if weight_norm else sizes
        tail, self.head = _tail(before, halvings, plain_units, units=450)
        self.features = nn.Sequential(*layers, ACTIVATIONS[sizes.activation](), *tail)


ENCODERS: dict[str, type[Encoder]] = {  # by the names that a VLAE takes
    "conv": ConvEncoder,
    "strided": StridedEncoder,
    "mlp": FullyConnectedEncoder,
    "resnet": ResNetEncoder,
}


def make_encoder(kind: str, sizes: Sizes) -> Encoder:
    """Makes the encoder of a kind, a name in ``ENCODERS``, with these sizes."""
    return ENCODERS[kind](sizes)


def _outputs(sizes: Sizes) -> int:
    return 2 * sizes.latent_dim + sizes.context_dim


def _tail(channels: int, halvings: int, sizes: Sizes, *, units: int = 0) -> tuple[list[nn.Module], nn.Module]:
    """Last layers of the features and the head, for an image halved ``halvings`` times; units: where sizes has none."""
    if sizes.latent_map is not None:
        if sizes.units:
            raise ValueError(f"VLAE: encoder_units must be None or 0 where z is a map, got {sizes.units}")
        return [], MapHead(channels, sizes, sizes.latent_map)
    flat = channels * math.prod(-(-side // 2**halvings) for side in sizes.image_size)
    units = units if sizes.units is None else sizes.units
    if not units:
        return [nn.Flatten()], nn.Linear(flat, _outputs(sizes))
    between = [nn.Flatten(), *linear(flat, units, norm=sizes.norm), ACTIVATIONS[sizes.activation]()]
    return between, nn.Linear(units, _outputs(sizes))
