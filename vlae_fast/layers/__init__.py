"""Modules over the ops, with the parameters and the state_dict of the plain layers."""

from .conv import GatedMaskedConv2d, MaskedConv2d
from .linear import MADE, MaskedLinear
from .weight_norm import WeightNormConv2d, initialize

__all__ = [
    "MADE",
    "GatedMaskedConv2d",
    "MaskedConv2d",
    "MaskedLinear",
    "WeightNormConv2d",
    "initialize",
]
