"""Images drawn from a model: given a code, along walks of codes, from any of their pixels."""

from .decompression import DECOMPRESSIONS, decompress, mean_images
from .inpainting import complete, denoise
from .particles import Completions, weighted_samples

__all__ = [
    "DECOMPRESSIONS",
    "Completions",
    "complete",
    "decompress",
    "denoise",
    "mean_images",
    "weighted_samples",
]
