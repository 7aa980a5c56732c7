"""Decoders by the names that a VLAE takes: a new kind is its file and a row here."""

from __future__ import annotations

from .base import Decoder
from .factorized import DeconvDecoder, MLPDecoder
from .gated import PixelCNNDecoder
from .pixelcnnpp import PixelCNNPPDecoder
from .resnet import ResNetDecoder
from .two_stack import TwoStackDecoder

KINDS: dict[str, type[Decoder]] = {
    "gated": PixelCNNDecoder,
    "two-stack": TwoStackDecoder,
    "resnet": ResNetDecoder,
    "pixelcnn++": PixelCNNPPDecoder,
    "mlp": MLPDecoder,
    "deconv": DeconvDecoder,
}
