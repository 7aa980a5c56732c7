"""Decoders, one kind a file; `make_decoder` makes one by its name."""

from .base import Decoder
from .code_map import CodeMap
from .factorized import DeconvDecoder, MLPDecoder
from .gated import PixelCNNDecoder
from .pixelcnnpp import PixelCNNPPDecoder
from .resnet import ResNetDecoder
from .two_stack import TwoStackDecoder

__all__ = [
    "CodeMap",
    "Decoder",
    "DeconvDecoder",
    "MLPDecoder",
    "PixelCNNDecoder",
    "PixelCNNPPDecoder",
    "ResNetDecoder",
    "TwoStackDecoder",
]
