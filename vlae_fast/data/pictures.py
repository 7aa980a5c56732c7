"""A folder of pictures: PNG, JPEG and others that Pillow reads, cut to one size."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._extras import require
from .images import SPLITS, Images
from .own import Read, assembled

_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # Pillow has others, of which some run programs
ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
_GREY = ("1", "L", "LA")
_KNOWN = (*_GREY, "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")  # of 8 bits; others would be cut off
_MOST_PIXELS = 1 << 26  # of one picture
_SPLITS = {"train": "train", "valid": "valid", "val": "valid", "validation": "valid", "test": "test"}


def has_pictures(folder: Path) -> bool:
    """True where a picture lies in the folder or below it."""
    return any(_is_picture(path, folder) for path in folder.rglob("*"))


def picture_folder(
    folder: Path,
    name: str,
    binarization: str | None = None,
    *,
    image_size: tuple[int, int] | None = None,
    channels: int | None = None,
) -> Images:
    """The pictures in a folder and below it, in the order of their names.

    Folders ``train``, ``valid`` (or ``val``) and ``test`` are the splits; what is missing is held out of the training
    images. Where every picture lies in a folder of a split's own, those folders are the classes, in the order of their
    names. Transparent parts become white, and pictures are turned as their EXIF data says. Hidden files and folders,
    whose names start with a dot, are left out.

    Args:
        name: of the data set.
        image_size: (H, W): a picture is cut to this ratio around its middle, then scaled. None: all have one size.
        channels: 1 or 3. None: 1 where all pictures are grey, else 3.

    Raises:
        FileNotFoundError: no picture.
        ValueError: pictures of several sizes where image_size is None, one that cannot be read, or one outside of the
            splits where there is a folder ``train`` and one of another split.
    """
    paths = sorted(path for path in folder.rglob("*") if _is_picture(path, folder))
    if not paths:
        raise FileNotFoundError(f"data_dir: no pictures ({', '.join(ENDINGS)}) in {folder}")
    split_of = _splits_of(paths, folder)
    if split_of:
        roots = {path: folder / path.relative_to(folder).parts[0] for path in paths}
    else:
        split_of = dict.fromkeys(paths, "train")
        roots = dict.fromkeys(paths, folder)
    inside = {path: path.relative_to(roots[path]).parts for path in paths}
    named = all(len(parts) == 2 for parts in inside.values())
    classes = sorted({parts[0] for parts in inside.values()}) if named else []
    size, grey = _size_and_colour(paths, image_size)
    parts = {}
    for split in SPLITS:
        mine = [path for path in paths if split_of[path] == split]
        if mine:
            pixels = _read(mine, size, channels or (1 if grey else 3))
            labels = torch.tensor([classes.index(inside[path][0]) for path in mine]) if classes else None
            parts[str(split)] = Read(pixels, labels)
    note = f"pictures of {size[0]}x{size[1]}" + (f"; classes in order: {', '.join(classes[:20])}" if classes else "")
    return assembled(parts, name, binarization, note)


def _splits_of(paths: list[Path], folder: Path) -> dict[Path, str]:
    """The split of each picture; none where the folder has no splits: a class may be called "test", or "train"."""
    tops = {path: path.relative_to(folder).parts for path in paths}
    found = {path: _SPLITS.get(parts[0].lower(), "") if len(parts) > 1 else "" for path, parts in tops.items()}
    splits = {split for split in found.values() if split}
    stray = next((path for path, split in found.items() if not split), None)
    if stray is not None and "train" in splits and len(splits) > 1:
        rule = f"every picture must lie in a folder of a split, as others do in {', '.join(sorted(splits))}"
        raise ValueError(f"data_dir: {rule}, got {stray}")
    return found if "train" in splits and stray is None else {}


def _is_picture(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return path.suffix.lower() in ENDINGS and not hidden and path.is_file()


def _size_and_colour(paths: list[Path], wanted: tuple[int, int] | None) -> tuple[tuple[int, int], bool]:
    """(H, W) of the images, and whether all are grey; pictures are opened, not decoded."""
    size, grey = wanted, True
    for path in paths:
        with _opened(path) as picture:
            found = _upright_size(picture)
            grey = grey and picture.mode in _GREY
        size = size or found
        if wanted is None and found != size:
            shapes = f"{size[0]}x{size[1]} ({paths[0].name}) and {found[0]}x{found[1]} ({path.name})"
            raise ValueError(f"image_size: must be given where pictures have several sizes, got {shapes}")
    assert size is not None
    return size, grey


def _upright_size(picture: Any) -> tuple[int, int]:
    """(H, W) after the turn that EXIF data asks for."""
    width, height = picture.size
    turned = _is_photo(picture) and picture.getexif().get(0x0112) in (5, 6, 7, 8)  # they lie on their side
    return (width, height) if turned else (height, width)


def _is_photo(picture: Any) -> bool:
    """True of the formats of cameras; to ask others for EXIF data would decode them."""
    return picture.format in ("JPEG", "TIFF", "WEBP")


def _opened(path: Path) -> Any:
    """The picture, whose size is checked before it is decoded."""
    module = require("PIL.Image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its size, which has a rule here
            picture = module.open(path, formats=_FORMATS)
    except Exception as error:  # of whatever kind Pillow stumbles over in a stranger's file
        raise ValueError(f"{path}: must be a picture ({', '.join(_FORMATS)}): {error}") from error
    width, height = picture.size
    if width * height > _MOST_PIXELS:
        picture.close()
        raise ValueError(f"{path}: must have at most {_MOST_PIXELS:,} pixels, got {width} x {height}")
    if picture.mode not in _KNOWN:
        picture.close()
        raise ValueError(f"{path}: must have 8 bits a channel, got mode {picture.mode!r}")
    return picture


def pictures_at(path: Path) -> list[Path]:
    """The file itself, or the pictures in a folder and below it, in the order of their names."""
    return sorted(found for found in path.rglob("*") if _is_picture(found, path)) if path.is_dir() else [path]


def read_exactly(path: Path, size: tuple[int, int], channels: int) -> Tensor:
    """uint8 ``[1, C, H, W]`` of a picture, nothing of which is lost.

    Raises:
        ValueError: it is damaged, of another size, or of other modes than grey, palette or RGB, or has colours where
            `channels` is 1.
    """
    with _opened(path) as picture:
        height, width = _upright_size(picture)
        if (height, width) != size:
            raise ValueError(f"images: {path}: must be {size[0]}x{size[1]} as the model's are, got {height}x{width}")
        if picture.mode not in (("1", "L") if channels == 1 else ("1", "L", "RGB")):
            rule = "must be grey" if channels == 1 else "must be grey or RGB"
            raise ValueError(f"images: {path}: {rule}, got a picture of mode {picture.mode}")
        if "transparency" in picture.info:
            raise ValueError(f"images: {path}: must have no transparent colour, got one")
    return _read([path], size, channels)


def _read(paths: list[Path], size: tuple[int, int], channels: int) -> Tensor:
    """uint8 ``[N, C, H, W]``."""
    pixels = torch.empty(len(paths), channels, *size, dtype=torch.uint8)
    for row, path in zip(pixels, paths, strict=True):
        with _opened(path) as picture:
            try:
                array = np.array(_fitted(picture, size, "L" if channels == 1 else "RGB"))
            except Exception as error:  # as above: decoding comes last
                raise ValueError(f"{path}: damaged picture: {error}") from error
        row.copy_(torch.from_numpy(array).reshape(*size, channels).permute(2, 0, 1))
    return pixels


def _fitted(picture: Any, size: tuple[int, int], mode: str) -> Any:
    """The picture upright, over white, of this size and mode."""
    image = require("PIL.Image")
    if _is_photo(picture):
        picture = require("PIL.ImageOps").exif_transpose(picture)
    if picture.mode in ("LA", "PA", "RGBA") or "transparency" in picture.info:
        clear = picture.convert("RGBA")
        picture = image.alpha_composite(image.new("RGBA", clear.size, "white"), clear)
    picture = picture.convert(mode)
    height, width = size
    if picture.size == (width, height):
        return picture
    scale = min(picture.size[0] / width, picture.size[1] / height)
    cut = [max(1, round(scale * side)) for side in (width, height)]
    left, top = ((have - want) // 2 for have, want in zip(picture.size, cut, strict=True))
    return picture.crop((left, top, left + cut[0], top + cut[1])).resize((width, height), image.Resampling.LANCZOS)
