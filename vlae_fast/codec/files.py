"""Pictures to images of a model's levels and back, without a pixel changed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .._extras import require
from ..data import pictures
from ..models.vlae import VLAE


def read_pictures(sources: Sequence[Path], model: VLAE, *, threshold: bool = False) -> Tensor:
    """Images ``[N, C, H, W]`` in [0, 1] of picture files, and of those in and below folders, by name.

    threshold: makes pixels black or white at one half.

    Raises:
        FileNotFoundError: no picture.
        ValueError: a picture of another size, with colours where the model has one channel, or of other levels.
    """
    paths = [path for source in sources for path in pictures.pictures_at(source)]
    if not paths:
        raise FileNotFoundError(f"images: must be pictures or folders of them, got {', '.join(map(str, sources))}")
    channels, (height, width) = model.likelihood.channels, model.decoder.image_size
    grey = torch.cat([pictures.read_exactly(path, (height, width), channels) for path in paths])
    if threshold:
        grey = (grey >= 128).to(torch.uint8) * 255
    levels = model.likelihood.levels
    k = model.likelihood.index(grey.float() / 255)
    exact = (k / (levels - 1) * 255).round() == grey
    if not exact.all():
        i = int((~exact).flatten(1).any(1).nonzero()[0])
        advice = ": --binarization threshold makes them so" if levels == 2 else ""
        value = int(grey[i][~exact[i]][0])
        raise ValueError(
            f"images: {paths[i]}: pixels must have the model's {levels} levels, got {value} of 255{advice}"
        )
    return k / (levels - 1)


def write_pictures(images: Tensor, folder: Path) -> list[str]:
    """Writes images as ``00000.png`` and so on into a folder that is new or empty, all of them or none.

    Raises:
        ValueError: the folder has files. OSError: it cannot be written.
    """
    folder = folder.resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"folder: must be new or empty, got {folder}")
    image = require("PIL.Image")
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = folder.with_name(f".{folder.name}.{os.getpid()}.incomplete")
    digits = max(5, len(str(len(images))))
    names = [f"{i:0{digits}}.png" for i in range(len(images))]
    try:
        fresh.mkdir()
        for name, pixels in zip(names, (images * 255).round().to(torch.uint8), strict=True):
            array = np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())
            image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).save(fresh / name)
        if folder.exists():
            folder.rmdir()  # it is empty
        os.replace(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return names
