"""Decoders that people wrote themselves: traced, written as a program, checked, sampled."""

from .sampler import ForeignDecoder, fast_sampler

__all__ = ["ForeignDecoder", "fast_sampler"]
