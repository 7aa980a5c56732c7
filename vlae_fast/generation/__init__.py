"""Images drawn from a model: given a code, along walks of codes, from damaged images."""

from .decompression import DECOMPRESSIONS, decompress

__all__ = ["DECOMPRESSIONS", "decompress"]
