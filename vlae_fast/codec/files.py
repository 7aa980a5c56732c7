"""Pictures to images of a model's levels and back, without a pixel changed; folders to labels and back."""

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


def paths_of(sources: Sequence[Path]) -> list[Path]:
    """Picture files, and those in and below folders, by name; FileNotFoundError where there is none."""
    paths = [path for source in sources for path in pictures.pictures_at(source)]
    if not paths:
        raise FileNotFoundError(f"images: must be pictures or folders of them, got {', '.join(map(str, sources))}")
    return paths


def read_pictures(paths: Sequence[Path], model: VLAE, *, threshold: bool = False) -> Tensor:
    """Images ``[N, C, H, W]`` in [0, 1] of picture files.

    threshold: makes pixels black or white at one half.

    Raises:
        ValueError: a picture of another size, with colours where the model has one channel, or of other levels.
    """
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


def folder_names(n_classes: int) -> list[str]:
    """The folders of classes: their numbers behind a word, for folders of digits are classes in the order of names."""
    return [f"class-{k:0{len(str(n_classes - 1))}}" for k in range(n_classes)]


def labels_by_folder(paths: Sequence[Path], n_classes: int) -> Tensor:
    """The label ``[N]`` of each picture, by the name of its folder.

    Names are those of `folder_names`; or others, as many as there are classes, which are in the order of names, as they
    are where a model is trained on a folder of pictures. ValueError where they are neither.
    """
    names = [path.resolve().parent.name for path in paths]
    known, found = folder_names(n_classes), sorted(set(names))
    if not set(found) <= set(known):
        if len(found) != n_classes:
            shown = ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")
            rule = f"must lie in folders of all {n_classes} classes, or named {known[0]} to {known[-1]}"
            raise ValueError(f"images: {rule}, or have their classes by --labels, got folders {shown}")
        known = found
    return torch.tensor([known.index(name) for name in names])


def read_labels(file: Path, n: int, n_classes: int) -> Tensor:
    """The label ``[N]`` of each of n pictures, by a text file with a class on every line.

    Raises:
        ValueError: a line is no class, or there are not n of them.
    """
    labels = []
    for i, line in enumerate(file.read_text(encoding="utf-8").splitlines()):
        if not (line.isascii() and line.strip().isdigit() and len(line) < 20 and int(line) < n_classes):
            raise ValueError(f"--labels: {file}: line {i + 1} must be a class from 0 to {n_classes - 1}, got {line!r}")
        labels.append(int(line))
    if len(labels) != n:
        raise ValueError(f"--labels: {file}: must have a line for each of {n:,} pictures, got {len(labels):,}")
    return torch.tensor(labels, dtype=torch.int64)


def write_pictures(images: Tensor, out: Path, labels: Tensor | None = None, n_classes: int = 0) -> list[str]:
    """Writes images as ``00000.png`` and so on into a folder that is new or empty, all of them or none.

    labels: ``[N]``: each image lies in the folder of its class, of those in `folder_names`.

    Raises:
        ValueError: the folder has files. OSError: it cannot be written.
    """
    out = out.resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"out: must be new or empty, got {out}")
    image = require("PIL.Image")
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = out.with_name(f".{out.name}.{os.getpid()}.incomplete")
    digits = max(5, len(str(len(images))))
    names = [f"{i:0{digits}}.png" for i in range(len(images))]
    if labels is not None:
        classes = folder_names(n_classes)
        names = [f"{classes[k]}/{name}" for k, name in zip(labels.tolist(), names, strict=True)]
    try:
        for name in {"", *(str(Path(name).parent) for name in names)}:
            (fresh / name).mkdir(exist_ok=True)
        for name, pixels in zip(names, (images * 255).round().to(torch.uint8), strict=True):
            array = np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())
            image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).save(fresh / name)
        if out.exists():
            out.rmdir()  # it is empty
        os.replace(fresh, out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return names
