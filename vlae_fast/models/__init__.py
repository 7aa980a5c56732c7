"""Models built of the layers; no kernel in sight."""

from .decoder import make_decoder
from .decoders import (
    DeconvDecoder,
    MLPDecoder,
    PixelCNNDecoder,
    PixelCNNPPDecoder,
    ResNetDecoder,
    TwoStackDecoder,
)
from .flow import AutoregressiveFlow
from .vlae import VLAE, loss_function

__all__ = [
    "VLAE",
    "AutoregressiveFlow",
    "DeconvDecoder",
    "MLPDecoder",
    "PixelCNNDecoder",
    "PixelCNNPPDecoder",
    "ResNetDecoder",
    "TwoStackDecoder",
    "loss_function",
    "make_decoder",
]
