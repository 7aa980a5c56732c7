"""Products of matrices, of which each row is that of its own numbers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_TILE = 32  # bfloat16 numbers of a row of a tile of AMX


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear` of x ``[B, I]`` and weight ``[O, I]``.

    In bfloat16 on a processor with AMX PyTorch (2.13, oneDNN 3.12) reads a number behind the row, unless the length is
    a multiple of a tile's, and multiplies it by 0: NaN, where the next row or what lies between rows is not finite.
    Rows are made such multiples.
    """
    if x.dtype == torch.bfloat16 and x.device.type == "cpu" and (beyond := -x.shape[1] % _TILE):
        x, weight = F.pad(x, (0, beyond)), F.pad(weight, (0, beyond))
    return F.linear(x, weight, bias)
