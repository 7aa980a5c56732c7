"""Modules over the ops, with the parameters and the state_dict of the plain layers."""

from .conv import GatedMaskedConv2d, MaskedConv2d
from .linear import MADE, MaskedLinear
from .weight_norm import WeightNorm, WeightNormConv2d, WeightNormConvTranspose2d, WeightNormLinear, initialize

__all__ = [
    "MADE",
    "GatedMaskedConv2d",
    "MaskedConv2d",
    "MaskedLinear",
    "WeightNorm",
    "WeightNormConv2d",
    "WeightNormConvTranspose2d",
    "WeightNormLinear",
    "initialize",
]
