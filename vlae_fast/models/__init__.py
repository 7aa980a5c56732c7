"""Models built of the layers; no kernel in sight."""

from .conv_flow import ConvFlow
from .decoders import DeconvDecoder, MLPDecoder, PixelCNNDecoder, PixelCNNPPDecoder, ResNetDecoder, TwoStackDecoder
from .decoders.make import make_decoder
from .flow import AutoregressiveFlow
from .growth import grow
from .likelihood import make_likelihood
from .options import Options
from .pixelcnn import PixelCNN
from .posterior import InverseAutoregressivePosterior
from .presets import PRESETS, Preset, preset
from .vlae import VLAE, loss_function

__all__ = [
    "PRESETS",
    "VLAE",
    "AutoregressiveFlow",
    "ConvFlow",
    "DeconvDecoder",
    "InverseAutoregressivePosterior",
    "MLPDecoder",
    "Options",
    "PixelCNN",
    "PixelCNNDecoder",
    "PixelCNNPPDecoder",
    "Preset",
    "ResNetDecoder",
    "TwoStackDecoder",
    "grow",
    "loss_function",
    "make_decoder",
    "make_likelihood",
    "preset",
]
