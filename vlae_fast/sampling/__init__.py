"""Decoder -> program -> wavefront -> image."""

from .factorized import FactorizedSampler
from .foreign import ForeignDecoder, fast_sampler
from .sampler import PixelCNNSampler, naive_sample
from .window import ReceptiveField, receptive_field

__all__ = [
    "FactorizedSampler",
    "ForeignDecoder",
    "PixelCNNSampler",
    "ReceptiveField",
    "fast_sampler",
    "naive_sample",
    "receptive_field",
]
