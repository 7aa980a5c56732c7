"""Decoder -> program -> wavefront -> image."""

from .sampler import PixelCNNSampler, naive_sample

__all__ = ["PixelCNNSampler", "naive_sample"]
