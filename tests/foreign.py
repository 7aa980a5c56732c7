"""Layers and models as people write them, cut to their structure: what `accelerate` and `fast_sampler` are tried on."""

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def raster_mask(kind: str, weight: Tensor) -> Tensor:
    kh, kw = weight.shape[2:]
    mask = torch.ones_like(weight)
    mask[:, :, kh // 2, kw // 2 + (kind == "B") :] = 0
    mask[:, :, kh // 2 + 1 :] = 0
    return mask


class DataMaskedConv(nn.Conv2d):
    """Writes the mask into its weight whenever it runs."""

    def __init__(self, kind: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_buffer("mask", raster_mask(kind, self.weight.data))

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data *= self.mask
        return super().forward(x)


class ProductMaskedConv(DataMaskedConv):
    """Multiplies by the mask where autograd sees it; ``thirds`` makes the centre tap autoregressive over RGB."""

    def __init__(self, kind: str, *args: Any, thirds: bool = False, **kwargs: Any) -> None:
        super().__init__(kind, *args, **kwargs)
        if thirds:
            out, inp = (torch.arange(n) * 3 // n for n in self.weight.shape[:2])
            seen = out[:, None] > inp if kind == "A" else out[:, None] >= inp
            self.mask[:, :, self.kernel_size[0] // 2, self.kernel_size[1] // 2] = seen.float()

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight * self.mask, self.bias)


class CroppedConv(nn.Conv2d):
    """Pads on every side and throws away what looks ahead: ``down`` and ``right`` shift what is left."""

    def __init__(self, *args: Any, down: bool = False, right: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.down, self.right = down, right

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        kh, kw = self.kernel_size
        top, left = (kh if self.down else kh - 1), (kw if self.right else kw - 1 if kh == 1 else kw // 2)
        x = F.pad(x, (left, kw // 2, top, 0))
        return super().forward(x)[:, :, :h, :w]


class ProductMaskedLinear(nn.Linear):
    def __init__(self, mask: Tensor, bias: bool = True) -> None:
        super().__init__(mask.shape[1], mask.shape[0], bias)
        self.register_buffer("mask", mask.float())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.mask * self.weight, self.bias)


def made_masks(dim: int, hidden: int) -> list[Tensor]:
    """Hidden units in turn of every degree, as most MADE code has them: not sorted."""
    degrees = [torch.arange(dim), torch.arange(hidden) % (dim - 1), torch.arange(hidden) % (dim - 1)]
    masks = [o[:, None] >= i for i, o in pairwise(degrees)]
    return [*masks, torch.arange(dim)[:, None] > degrees[-1]]
