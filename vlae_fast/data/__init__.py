"""Image data: three splits of bytes, where they come from, and how a batch of them becomes floats in [0, 1]."""

from .corruption import corrupt
from .datasets import NAMES, find, load, name_of
from .embedded import digits
from .idx import idx_folder, read_idx
from .images import BINARIZATIONS, SPLITS, Images, Split, binarize

__all__ = [
    "BINARIZATIONS", "NAMES", "SPLITS", "Images", "Split", "binarize", "corrupt", "digits", "find", "idx_folder",
    "load", "name_of", "read_idx",
]  # fmt: skip
