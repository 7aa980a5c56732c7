"""Arguments of the ops as their contracts hand them to every backend: checked, by records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .. import activations
from ..masks import Pair, Tap, conv_mask, conv_taps, is_partial, tap_at


class ConvOptions(NamedTuple):
    """The arguments of `masked_conv` besides tensors."""

    mask_type: str
    image_channels: int = 1
    activation: str = "none"
    dilation: Pair = (1, 1)
    residual: bool = False  # x is added after the activation

    @property
    def keeps_activated(self) -> bool:
        """True where the backward is given the output without its residual, of which the slope follows."""
        return self.residual and self.activation != "none"

    @property
    def has_sigmoid(self) -> bool:
        """True where the backward is given a tensor beside the output: the sigmoid of the gate."""
        return not activations.BY_NAME[self.activation].slope_of_output

    def mask(self, weight_shape: tuple[int, ...], device: torch.device) -> Tensor:
        """Boolean ``[P, C_in, k, k]``, True where the weight is alive."""
        return conv_mask(self.mask_type, weight_shape, image_channels=self.image_channels, device=device)

    def partial_mask(self, weight_shape: tuple[int, ...]) -> Tensor | None:
        """The mask, on the CPU, where some tap is alive for some channels only; else None."""
        if not is_partial(self.mask_type, self.image_channels):
            return None
        return self.mask(weight_shape, torch.device("cpu"))

    def taps_inside(self, kernel_size: Pair, image_size: Pair) -> tuple[Tap, ...]:
        """Taps with a live weight that lie inside the image from some pixel, for kernels that skip the others.

        They are in raster order, so that the centre, the only tap that may be alive in part, is the last one.
        """
        taps = conv_taps(self.mask_type, kernel_size, self.dilation)
        centre, (height, width) = tap_at((0, 0), kernel_size), image_size
        if is_partial(self.mask_type, self.image_channels) and centre not in taps:
            taps = (*taps, centre)
        return tuple(tap for tap in taps if abs(tap.offset[0]) < height and abs(tap.offset[1]) < width)


class Mask(NamedTuple):
    """The mask of `masked_linear`: degrees, or an adjacency in their place."""

    in_degrees: Tensor | None  # [I]
    out_degrees: Tensor | None  # [O]
    adjacency: Tensor | None = None  # [O, I], boolean


class Layers(NamedTuple):
    """The masked layers of `made_inverse`: L of each step of a flow, those of the first step in front."""

    weights: Sequence[Tensor]  # S L times [O, I]
    biases: Sequence[Tensor]  # S L times [O]
    degrees: Sequence[Tensor]  # of the inputs, the hidden layers, the outputs: L + 1, the same in every step
    cond: Tensor | None = None  # [B, S H], added to the first pre-activation of each step

    def steps(self, at_once: int = 1) -> Iterator[Layers]:
        """Shares of so many steps (the last one may be smaller), in the order in which they run."""
        if len(self.weights) <= at_once * (len(self.degrees) - 1):  # the usual call: nothing to cut
            yield self
            return
        n_layers, units = at_once * (len(self.degrees) - 1), at_once * self.degrees[1].shape[0]
        for share, i in enumerate(range(0, len(self.weights), n_layers)):
            of_layers, of_units = slice(i, i + n_layers), slice(share * units, (share + 1) * units)
            cond = None if self.cond is None else self.cond[:, of_units]
            yield Layers(self.weights[of_layers], self.biases[of_layers], self.degrees, cond)


class Transform(NamedTuple):
    """The functions in `made_inverse`: the activation of the hidden layers, and the scale of the transform."""

    activation: str = "relu"  # of the hidden layers
    scale: str = "exp"  # of a dimension: one of SCALES in `ops.made_inverse`
