"""Masked networks that are no chain of layers with an activation between any two, written as one that is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Layer = tuple[Tensor, Tensor]  # weight [O, I], bias [O]


def folded(layers: Sequence[Layer]) -> list[Layer]:
    """Merges the first two layers of a network that has no activation between them."""
    (weight, bias), second, *rest = layers
    return [(second[0] @ weight, F.linear(bias, *second)), *rest]


def unrolled(layers: Sequence[Layer]) -> list[Layer]:
    """Unrolls residual blocks ``h + W_1 relu(W_0 relu(h) + b_0) + b_1`` between a first and a last layer into a chain.

    All activations are relu. h is carried along as relu(h) and relu(-h), whose difference it is, exactly. A block of
    H units becomes layers of 3 H and 2 H units: six times the products, most with zeros; D passes take D times.
    """
    first, *blocks, (last, last_bias) = layers
    chain = [_signed(*first)]
    for (enter, enter_bias), (leave, leave_bias) in zip(blocks[::2], blocks[1::2], strict=True):
        one = torch.eye(len(leave), dtype=leave.dtype, device=leave.device)
        zero = torch.zeros_like(one)
        inside = torch.cat([torch.cat([enter, one, zero]), torch.cat([torch.zeros_like(enter), zero, one])], 1)
        carried = torch.zeros_like(leave_bias).repeat(2)
        chain.append((inside, torch.cat([enter_bias, carried])))
        chain.append(_signed(torch.cat([leave, one, -one], 1), leave_bias))
    return [*chain, (torch.cat([last, -last], 1), last_bias)]


def _signed(weight: Tensor, bias: Tensor) -> Layer:
    """The layer's outputs, then the same with the other sign."""
    return torch.cat([weight, -weight]), torch.cat([bias, -bias])
