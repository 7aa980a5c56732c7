"""A layer's output by the ops, from its weight and a `Spec` of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..masks import Pair
from ..ops.masked_conv import masked_conv
from ..ops.masked_linear import masked_linear
from .spec import ConvSpec, LinearSpec
from .walk import part_at

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


class Crops(NamedTuple):
    """Several crops of one convolution's output, which is computed beyond the image.

    Crop k of pixel p is the convolution at ``p + shifts[k]``. kind: tuple or list, that of the module's output.
    """

    kind: type
    shifts: tuple[Pair, ...]

    @property
    def margin(self) -> tuple[int, int, int, int]:
        """Pixels beyond the image: left, right, top, bottom."""
        ys, xs = zip(*self.shifts, strict=True)
        return max(0, -min(xs)), max(0, *xs), max(0, -min(ys)), max(0, *ys)

    def of(self, out: Tensor, x: Tensor) -> Iterator[Tensor]:
        """The crops of the output for x with the margin around it."""
        left, _, top, _ = self.margin
        for y, x_ in self.shifts:
            yield out[:, :, top + y : top + y + x.shape[-2], left + x_ : left + x_ + x.shape[-1]]


class Cond(NamedTuple):
    """A condition z that a part of the module maps to what is added to the pre-activation.

    inner: the path of the part. given: how it is given z: ``as it is``, ``as an image`` of one pixel, or ``expanded``
    to all pixels. shape: of z without the batch, ``[D]`` or ``[D, H, W]``, 0 for the sides of the image.
    """

    inner: str
    given: str
    shape: tuple[int, ...]

    def shape_for(self, images: Sequence[int]) -> tuple[int, ...]:
        """The shape of z for images of a shape ``[B, C, H, W]``."""
        return images[0], *self.shape[:1], *(s or side for s, side in zip(self.shape[1:], images[2:], strict=False))

    def of(self, module: nn.Module, z: Tensor, images: Tensor) -> Tensor:
        """``[B, P]`` or ``[B, P, H, W]``."""
        if self.given != "as it is":
            z = z[:, :, None, None]
        if self.given == "expanded":
            z = z.expand(-1, -1, *images.shape[2:])
        added: Tensor = part_at(module, self.inner)(z)
        if added.dim() == 4 and added.shape[2:] == (1, 1):
            added = added[:, :, 0, 0]
        return added


def conv_by_op(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cond: Tensor | None,
    spec: ConvSpec,
    activation: str,
    crops: Crops | None,
    backend: str,
) -> Tensor:
    """``[B, C, H, W]``; with crops, of the image with their margin around it."""
    if spec.live is not None:
        weight = torch.where(spec.live, weight, 0)
    if any(spec.pad):
        weight = F.pad(weight, spec.pad)
    if crops is not None and any(crops.margin):
        images = F.pad(images, crops.margin)
    return masked_conv(
        images,
        weight,
        bias,
        cond,
        mask_type=spec.mask_type,
        image_channels=spec.image_channels,
        activation=activation,
        dilation=spec.dilation,
        backend=backend,
    )


def linear_by_op(x: Tensor, weight: Tensor, bias: Tensor | None, spec: LinearSpec, backend: str) -> Tensor:
    """``[..., O]`` of ``[..., I]``."""
    rows = x.reshape(-1, x.shape[-1])
    in_order = x.device.type != "cpu"  # whose kernels number the units themselves, without a copy of the weight
    if in_order and spec.in_order is not None:
        rows, weight = rows.index_select(1, spec.in_order), weight.index_select(1, spec.in_order)
    if in_order and spec.out_order is not None:
        weight = weight.index_select(0, spec.out_order)
        bias = None if bias is None else bias.index_select(0, spec.out_order)
    y = masked_linear(
        rows,
        weight,
        bias,
        in_degrees=spec.in_sorted if in_order else spec.in_degrees,
        out_degrees=spec.out_sorted if in_order else spec.out_degrees,
        adjacency=spec.adjacency,
        backend=backend,
    )
    if in_order and spec.out_back is not None:
        y = y.index_select(1, spec.out_back)
    return y.reshape(*x.shape[:-1], y.shape[-1])


def is_channels_last(x: Tensor) -> bool:
    """True where torch takes x for channels last, also with one channel, where the strides tell."""
    if x.stride(1) != 1 or x.stride(3) != x.shape[1] or torch._C._functorch.is_batchedtensor(x):
        return False
    return x.is_contiguous(memory_format=torch.channels_last)
