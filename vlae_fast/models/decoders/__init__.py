"""Decoders, one kind a file; `models.decoder.make_decoder` makes one by its name."""

from .base import Decoder
from .factorized import DeconvDecoder, MLPDecoder
from .gated import PixelCNNDecoder
from .pixelcnnpp import PixelCNNPPDecoder
from .resnet import ResNetDecoder
from .two_stack import TwoStackDecoder

__all__ = [
    "Decoder",
    "DeconvDecoder",
    "MLPDecoder",
    "PixelCNNDecoder",
    "PixelCNNPPDecoder",
    "ResNetDecoder",
    "TwoStackDecoder",
]
