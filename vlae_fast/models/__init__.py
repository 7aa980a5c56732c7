"""Models built of the layers; no kernel in sight."""

from .decoder import PixelCNNDecoder
from .flow import AutoregressiveFlow
from .vlae import VLAE, loss_function

__all__ = ["VLAE", "AutoregressiveFlow", "PixelCNNDecoder", "loss_function"]
