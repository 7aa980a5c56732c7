"""Image data: three splits of bytes, where they come from, and how a batch of them becomes floats in [0, 1]."""

from .corruption import corrupt
from .datasets import find, load, own_images
from .embedded import digits
from .idx import idx_folder, read_idx
from .images import BINARIZATIONS, SPLITS, Images, Split, binarize
from .names import NAMES, name_of
from .npz import npz_file
from .own import Source, for_split, for_training, from_dataset
from .pictures import picture_folder

__all__ = [
    "BINARIZATIONS", "NAMES", "SPLITS", "Images", "Source", "Split", "binarize", "corrupt", "digits", "find",
    "for_split", "for_training", "from_dataset", "idx_folder", "load", "name_of", "npz_file", "own_images",
    "picture_folder", "read_idx",
]  # fmt: skip
