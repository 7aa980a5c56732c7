"""Decoder -> program -> wavefront -> image."""

from .factorized import FactorizedSampler
from .made import MADESampler
from .naive import naive_sample
from .sampler import PixelCNNSampler
from .steps import Run, Step
from .window import ReceptiveField, receptive_field

__all__ = [
    "FactorizedSampler",
    "MADESampler",
    "PixelCNNSampler",
    "ReceptiveField",
    "Run",
    "Step",
    "naive_sample",
    "receptive_field",
]
