"""Images drawn from a model: given a code, along walks of codes, from any of their pixels."""

from ..sampling.numbered import numbered_noise
from .decompression import DECOMPRESSIONS, decompress, mean_images
from .inpainting import complete, denoise
from .numbered import numbered_images
from .particles import Completions, weighted_samples
from .shards import Drawn, draw_shards

__all__ = [
    "DECOMPRESSIONS",
    "Completions",
    "Drawn",
    "complete",
    "decompress",
    "denoise",
    "draw_shards",
    "mean_images",
    "numbered_images",
    "numbered_noise",
    "weighted_samples",
]
