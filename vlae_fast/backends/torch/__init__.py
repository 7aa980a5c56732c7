"""PyTorch's own products, on any device, in any dtype: every pixel of a wave, every unit of a degree, once.

For what no kernel runs: where the specification takes a pass of the whole network for a pixel or a dimension, this
takes the work of about one pass for all of them.
"""

from .made_inverse import made_inverse
from .made_sample import made_sample, made_sample_levels
from .pixelcnn_sample import pixelcnn_pack, pixelcnn_sample
from .pixelcnn_step import pixelcnn_start, pixelcnn_step, pixelcnn_step_draw

__all__ = [
    "made_inverse",
    "made_sample",
    "made_sample_levels",
    "pixelcnn_pack",
    "pixelcnn_sample",
    "pixelcnn_start",
    "pixelcnn_step",
    "pixelcnn_step_draw",
    "why_not",
]


def why_not() -> str | None:
    """It runs everywhere."""
    return None
