"""Images of one's own: tensors, PyTorch's data sets and loaders, and whatever else gives its items by number.

An item is an image, ``(image, label)``, or a dict with an "image" and perhaps a "label". An image is a tensor or an
array ``[C, H, W]`` or ``[H, W]`` of bytes or of numbers in [0, 1], or a picture of Pillow; a loader gives batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler

from .images import SPLITS, Images, Split
from .names import own_name

Source = Any  # what `from_dataset` reads; code that is given one asks nothing of its type
_IMAGE_KEYS, _LABEL_KEYS = ("image", "img", "pixel_values", "x"), ("label", "labels", "y")
_HELD_OUT = 10  # one image in so many


class Read(NamedTuple):
    """What a source holds: bytes ``[N, C, H, W]``, zeros and ones as 0 and 255; labels ``[N]``, or None."""

    pixels: Tensor
    labels: Tensor | None

    def rows(self, rows: Tensor) -> Read:
        return Read(self.pixels[rows], None if self.labels is None else self.labels[rows])


def from_dataset(
    train: Any, valid: Any = None, test: Any = None, *, name: str | None = None, binarization: str | None = None
) -> Images:
    """Images of one's own in three splits, read into memory once.

    Of a split that is not given, a tenth of the training images is held out, drawn with seed 0. Random transformations
    are drawn once, with seed 0 too where they draw from torch's generator; NumPy's and Python's are not seeded. A
    loop of one's own is for those that change from epoch to epoch. Labels that are no whole numbers (texts, numbers
    with a fraction, dicts), or several an image, are left out. Numbers in [0, 1] are rounded to bytes; bytes that are
    all 0 or 1 are black and white. A loader that shuffles is read in the order of its data set, whole.

    Args:
        train, valid, test: a tensor or an array ``[N, C, H, W]`` or ``[N, H, W]``, a pair of it and its labels, a data
            set (``len`` and items by number), a loader, or an iterable of items. An item is an image, a pair of it and
            its label, or a dict with an "image" and perhaps a "label"; an image may be Pillow's.
        name: of the data set; None: that of the class of `train`, in small letters. "mnist" becomes "mnist (own)", as
            every name in ``data.NAMES``.
        binarization: as in `Images`; None: "fixed" where all is black and white, "none" for RGB, else "dynamic".

    Raises:
        ValueError: no items, images of other shapes or ranges, labels of some items only, or not one an image.
        TypeError: something that is no image.
    """
    parts = {"train": _read(train)} | {s: _read(x) for s, x in (("valid", valid), ("test", test)) if x is not None}
    return assembled(parts, name or type(train).__name__.lower(), binarization)


def assembled(parts: Mapping[str, Read], name: str, binarization: str | None, note: str = "") -> Images:
    """The parts as a data set, with what is missing held out of the training images; see `from_dataset`."""
    found = dict(parts)
    missing = [split for split in SPLITS if split not in found]
    if missing:
        train = found["train"]
        held = max(1, len(train.pixels) // _HELD_OUT)
        if len(train.pixels) <= held * len(missing):
            raise ValueError(f"{name}: must hold at least {len(missing) + 1} images, got {len(train.pixels)}")
        order = torch.randperm(len(train.pixels), generator=torch.Generator().manual_seed(0), device="cpu")
        sizes = [held] * len(missing)
        rows = [part.sort().values for part in order.split([len(order) - sum(sizes), *sizes])]
        found |= dict(zip(("train", *missing), (train.rows(part) for part in rows), strict=True))
        note += f"{'; ' if note else ''}{' and '.join(missing)}: drawn from the training images with seed 0"
    counts = " / ".join(f"{len(found[split].pixels):,} {split}" for split in SPLITS)
    return _images(found, name, binarization, counts + (f" ({note})" if note else ""))


def for_training(source: Any, levels: int) -> Images:
    """`source` for a model of pixels of so many levels: `Images` as they are, else with a tenth held out to validate.

    There is no test split then: it is the validation split.
    """
    if isinstance(source, Images):
        return source
    read, name = _read(source), type(source).__name__.lower()
    both = assembled({"train": read, "test": read}, name, _for_levels(read, levels))
    labels = None if both.labels is None else both.labels | {"test": both.labels["valid"]}
    counts = f"{len(both.train):,} train / {len(both.valid):,} valid (drawn with seed 0)"
    return Images(both.name, both.train, both.valid, both.valid, counts, both.binarization, labels)


def for_split(source: Any, levels: int) -> Images:
    """`source` for a model of pixels of so many levels: `Images` as they are, else all of it as any split."""
    if isinstance(source, Images):
        return source
    read, name = _read(source), type(source).__name__.lower()
    return _images(dict.fromkeys(SPLITS, read), name, _for_levels(read, levels), f"{len(read.pixels):,} images")


def _images(parts: Mapping[str, Read], name: str, how: str | None, said: str) -> Images:
    if how is None:
        how = "none" if parts["train"].pixels.shape[1] == 3 else "dynamic"
        how = "fixed" if all(_is_binary(part.pixels) for part in parts.values()) else how
    pixels: dict[Split, Tensor] = {s: parts[s].pixels.div(255).round().byte() if how == "fixed" else parts[s].pixels
                                   for s in SPLITS}  # fmt: skip
    labelled = [split for split in SPLITS if parts[split].labels is not None]
    if labelled and len(labelled) < len(SPLITS):
        raise ValueError(f"{name}: must have labels in every split or in none, got them in {', '.join(labelled)}")
    labels = {str(s): part.labels for s in labelled if (part := parts[s]).labels is not None}
    return Images(own_name(name), pixels["train"], pixels["valid"], pixels["test"], said, how, labels or None)


def _is_binary(pixels: Tensor) -> bool:
    return bool(((pixels == 0) | (pixels == 255)).all())


def _for_levels(read: Read, levels: int) -> str:
    """What becomes of bytes for a likelihood of so many levels."""
    if levels != 2:
        return "none"
    return "fixed" if _is_binary(read.pixels) else "dynamic"


def _read(source: Any) -> Read:
    """The bytes and labels of anything that `from_dataset` takes; the caller's random state stays."""
    images, labels = list[Tensor](), list[Tensor]()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for number, (image, label) in enumerate(_pairs(source)):
            if images and image.shape[1:] != images[0].shape[1:]:
                shape, first = tuple(image.shape[1:]), tuple(images[0].shape[1:])
                raise ValueError(f"item {number}: image must be of the first one's shape {first}, got {shape}")
            if number and bool(labels) != (label is not None):
                raise ValueError(f"item {number}: must have a label where the first has one, and none where not")
            images.append(image)
            labels += [] if label is None else [label]
    if not images:
        raise ValueError("data: must hold images, got an empty data set")
    pixels = torch.cat(images)
    if pixels.max() <= 1 and len(pixels):  # zeros and ones as bytes
        pixels = pixels * 255
    return Read(pixels, torch.cat(labels) if labels else None)


def _pairs(source: Any) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Images ``[n, C, H, W]`` of an item or of a batch, as bytes, and their labels ``[n]``."""
    if hasattr(source, "shape") and hasattr(source, "dtype"):
        yield _bytes(source, "data", batch=True), None
    elif isinstance(source, tuple) and len(source) == 2 and all(hasattr(part, "shape") for part in source):
        image = _bytes(source[0], "data", batch=True)
        if len(source[1].shape) > 2:
            rule = "of two arrays the second must be the labels [N] of the first; splits are arguments of their own"
            raise ValueError(f"data: {rule}, got shapes {tuple(source[0].shape)} and {tuple(source[1].shape)}")
        yield image, _labels(source[1], len(image), "data", batch=True)
    else:
        batch = isinstance(source, DataLoader) and source.batch_sampler is not None
        for number, item in enumerate(_items(source)):
            where = f"{'batch' if batch else 'item'} {number}"
            image, label = _apart(item, where)
            pixels = _bytes(image, where, batch=batch)
            yield pixels, _labels(label, len(pixels), where, batch=batch)


def _items(source: Any) -> Iterable[Any]:
    if isinstance(source, DataLoader):
        sampler = source.sampler
        if type(sampler) is RandomSampler and not sampler.replacement and source.batch_size is not None:
            return DataLoader(
                source.dataset, source.batch_size, collate_fn=source.collate_fn, num_workers=source.num_workers
            )
        return source
    if hasattr(source, "__getitem__") and hasattr(source, "__len__"):  # PyTorch's have no end as iterables
        return (source[number] for number in range(len(source)))
    if not isinstance(source, Iterable) or isinstance(source, str | bytes):
        rule = "must be a tensor, a data set, a loader or an iterable of images"
        raise TypeError(f"data: {rule}, got {type(source).__name__}")
    return source


def _apart(item: Any, where: str) -> tuple[Any, Any]:
    """Image and label of an item; a label of None where there is none, or where it is no class."""
    if isinstance(item, Mapping):
        image = next((item[key] for key in _IMAGE_KEYS if key in item), None)
        if image is None:
            raise TypeError(f"{where}: must have one of {', '.join(_IMAGE_KEYS)}, got {', '.join(map(str, item))}")
        return image, next((item[key] for key in _LABEL_KEYS if key in item), None)
    if isinstance(item, tuple | list):
        return item[0], item[1] if len(item) > 1 else None
    return item, None


def _labels(label: Any, n: int, where: str, *, batch: bool) -> Tensor | None:
    """Classes ``[n]``; None where labels are none: no whole numbers, or more than one an image.

    Raises:
        ValueError: a batch of n images has another number of labels.
    """
    if label is None or isinstance(label, Mapping):
        return None
    if isinstance(label, list | tuple) and any(getattr(part, "shape", ()) for part in label):
        return None  # several labels an image, as loaders batch them
    try:
        found = _array(label)
    except (TypeError, ValueError):  # torch's types that NumPy lacks; lists of several lengths
        return None
    if found.dtype.kind not in "iu":
        return None
    if found.size == n and found.ndim <= 2:
        return torch.from_numpy(found.reshape(n).astype(np.int64))
    if batch and (found.ndim == 0 or len(found) != n):
        raise ValueError(f"{where}: must have one label an image ({n}), got labels of shape {found.shape}")
    return None


def _array(given: Any) -> np.ndarray:
    return given.detach().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)


def _tensor(array: np.ndarray) -> Tensor:
    """An array of any strides, byte order and width: torch takes few of them."""
    if array.dtype.kind in "iu" and array.dtype.itemsize > 1:
        array = array.astype(np.int32 if array.dtype.itemsize == 2 else np.int64)
    return torch.as_tensor(np.ascontiguousarray(array, array.dtype.newbyteorder("=")))


def _bytes(image: Any, where: str, *, batch: bool) -> Tensor:
    """uint8 ``[n, C, H, W]`` of one image or a batch; numbers in [0, 1] are rounded to k / 255."""
    if hasattr(image, "convert") and hasattr(image, "getbands"):  # of Pillow
        image = image if image.mode in ("L", "RGB") else image.convert("L" if image.mode == "1" else "RGB")
        image = np.array(image)
    channels_last = not isinstance(image, Tensor)  # as pictures are in arrays
    try:
        pixels = _tensor(np.asarray(image)) if channels_last else image.detach().cpu()
    except TypeError:
        raise TypeError(f"{where}: image must be a tensor, an array or a picture, got {type(image).__name__}") from None
    plain = 3 if batch else 2  # dimensions without channels
    if pixels.dim() == plain:
        pixels = pixels.unsqueeze(-3)
    elif channels_last and pixels.dim() == plain + 1 and pixels.shape[-1] in (1, 3) and pixels.shape[-3] not in (1, 3):
        pixels = pixels.movedim(-1, -3)
    if pixels.dim() != plain + 1 or pixels.shape[-3] not in (1, 3) or 0 in pixels.shape:
        rule = "image must be [C, H, W] or [H, W] with C = 1 or 3"
        raise ValueError(f"{where}: {rule}{', in a batch' if batch else ''}, got {tuple(pixels.shape)}")
    pixels = pixels if batch else pixels[None]
    return _as_bytes(pixels, where).contiguous()


def _as_bytes(pixels: Tensor, where: str) -> Tensor:
    if pixels.dtype == torch.uint8:
        return pixels
    if pixels.dtype == torch.bool:
        return pixels.byte() * 255
    if pixels.dtype in (torch.uint16, torch.uint32, torch.uint64):  # torch finds no least of them
        pixels = pixels.long()
    low, high = pixels.min().item(), pixels.max().item()
    real = pixels.is_floating_point()
    if not (0 <= low and high <= (1 if real else 255)):  # NaN is neither
        advice = ": leave out what normalises them" if real and -10 < low < 0 else ""
        rule = "numbers in [0, 1]" if real else "bytes from 0 to 255"
        raise ValueError(f"{where}: image must hold {rule}, got {low:g} to {high:g}{advice}")
    return (pixels.float() * 255).round().byte() if real else pixels.byte()
