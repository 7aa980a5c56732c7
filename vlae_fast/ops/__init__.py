"""Functions on tensors, which the layers and the sampler are made of; each runs on every backend that is able.

These modules hold contracts alone: docstring, checks, schema, fake, autograd; `vlae_fast.reference` is the mathematics.
"""

from .made import made
from .made_inverse import made_inverse
from .made_sample import made_sample
from .made_sample_levels import made_sample_levels
from .masked_conv import masked_conv
from .masked_linear import masked_linear
from .pixelcnn_sample import pixelcnn_pack, pixelcnn_sample
from .pixelcnn_step import PixelCNNRun

__all__ = [
    "PixelCNNRun",
    "made",
    "made_inverse",
    "made_sample",
    "made_sample_levels",
    "masked_conv",
    "masked_linear",
    "pixelcnn_pack",
    "pixelcnn_sample",
]
