"""Any .npz file of images: its arrays are known by the names that such files have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from .files import npz_names, read_npz
from .images import Images, Split
from .own import Read, assembled

# Names of the images and of the labels of a split, as Keras, MedMNIST and others have them.
_NAMES: dict[Split, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "train": (
        ("x_train", "train_x", "X_train", "train_images", "train", "images", "x", "X", "data", "arr_0"),
        ("y_train", "train_y", "train_labels", "labels", "y", "Y", "arr_1"),
    ),
    "valid": (
        ("x_valid", "valid_x", "X_valid", "valid_images", "valid", "x_val", "val_x", "X_val", "val_images", "val"),
        ("y_valid", "valid_y", "valid_labels", "y_val", "val_y", "val_labels"),
    ),
    "test": (("x_test", "test_x", "X_test", "test_images", "test"), ("y_test", "test_y", "test_labels")),
}


def npz_file(path: Path, name: str, binarization: str | None = None) -> Images:
    """The images of a .npz file by the names of its arrays, integers ``[N, H, W]``, ``[N, C, H, W]`` or
    ``[N, H, W, C]`` with C = 1 or 3; labels ``[N]`` or ``[N, 1]``. A split that it lacks is held out.

    Raises:
        ValueError: no array of a known name, or one of another shape or range.
    """
    held = npz_names(path)
    chosen: dict[Split, tuple[str, str | None]] = {}
    for split, (images, labels) in _NAMES.items():
        if found := next((name for name in images if name in held), None):
            chosen[split] = found, next((name for name in labels if name in held), None)
    if "train" not in chosen:
        rule = f"must hold one of {', '.join(_NAMES['train'][0])}"
        raise ValueError(f"{path}: {rule}, got {', '.join(held) or 'nothing'}")
    arrays = read_npz(path, [name for pair in chosen.values() for name in pair if name])
    parts = {split: _part(path, arrays, *names) for split, names in chosen.items()}
    return assembled({str(split): part for split, part in parts.items()}, name, binarization)


def _part(path: Path, arrays: dict[str, Any], images: str, labels: str | None) -> Read:
    pixels = arrays[images]
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif pixels.ndim == 4 and pixels.shape[3] in (1, 3) and pixels.shape[1] not in (1, 3):
        pixels = pixels.transpose(0, 3, 1, 2)
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3) or not len(pixels):
        rule = "must be [N, H, W], or [N, C, H, W] or [N, H, W, C] with C = 1 or 3"
        raise ValueError(f"{path}: {images} {rule}, got {arrays[images].shape}")
    low, high = int(pixels.min()), int(pixels.max())
    if low < 0 or high > 255:
        raise ValueError(f"{path}: {images} must be bytes from 0 to 255, got {low} to {high}")
    found = torch.from_numpy(np.array(pixels, np.uint8, order="C"))
    return Read(found * 255 if high <= 1 else found, None if labels is None else _classes(path, arrays, labels, found))


def _classes(path: Path, arrays: dict[str, Any], labels: str, pixels: torch.Tensor) -> torch.Tensor:
    found = arrays[labels]
    if found.shape not in ((len(pixels),), (len(pixels), 1)):
        raise ValueError(f"{path}: {labels} must be one per image ({len(pixels)}), got {found.shape}")
    return torch.from_numpy(found.astype(np.int64).reshape(-1))
