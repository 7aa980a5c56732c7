"""Decoder -> program -> wavefront -> image."""

from .factorized import FactorizedSampler
from .made import MADESampler
from .sampler import PixelCNNSampler, naive_sample
from .window import ReceptiveField, receptive_field

__all__ = [
    "FactorizedSampler",
    "MADESampler",
    "PixelCNNSampler",
    "ReceptiveField",
    "naive_sample",
    "receptive_field",
]
