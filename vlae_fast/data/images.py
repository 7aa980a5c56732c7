"""Images as bytes in three splits, and the rule by which a batch of them becomes floats in [0, 1].

Grey levels stay bytes in memory (0..255, [N, C, H, W]); a batch becomes float32 when it is drawn, so dynamic
binarization costs no second copy of the data.
"""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from .._extras import require

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
BINARIZATIONS = ("dynamic", "threshold", "fixed", "none")
_SHOWN, _SHOWN_IN_A_ROW, _SHOWN_PIXELS = 40, 20, 1 << 20  # images in a notebook
_MAX_CLASSES = 1 << 16  # a one-hot code is as long as there are classes


@dataclass(frozen=True)
class Images:
    """Three splits of grey or RGB images, uint8 [N, C, H, W] with C = 1 or 3, and what a batch makes of a byte.

    Args:
        name: of the data set.
        train, valid, test: the splits. labels: of each, or None.
        split: in words, how many images are where.
        binarization: ``dynamic``: 1 with probability byte / 255, redrawn each time a batch is drawn; ``threshold``: 1
            where byte / 255 >= 0.5, always; ``fixed``: the bytes are zeros and ones, and stay; ``none``: byte / 255,
            for likelihoods of 256 levels.

    Raises:
        ValueError: another binarization, shape, dtype or value.
    """

    name: str
    train: Tensor
    valid: Tensor
    test: Tensor
    split: str  # in words: how many images, which, and whether published numbers are comparable
    binarization: str = "dynamic"
    labels: dict[str, Tensor] | None = None  # split -> int64 [N], classes from 0

    def __post_init__(self) -> None:
        if self.binarization not in BINARIZATIONS:
            raise ValueError(f"binarization: must be one of {', '.join(BINARIZATIONS)}, got {self.binarization!r}")
        for split in SPLITS:
            pixels = self.pixels(split)
            if pixels.dtype != torch.uint8 or pixels.dim() != 4 or pixels.shape[1] not in (1, 3) or len(pixels) == 0:
                raise ValueError(
                    f"{split}: must be uint8 [N, C, H, W] with N > 0 and C = 1 or 3, "
                    f"got {pixels.dtype} {tuple(pixels.shape)}"
                )
            if pixels.shape[1:] != self.train.shape[1:]:
                shape, expected = tuple(pixels.shape[1:]), tuple(self.train.shape[1:])
                raise ValueError(f"{split}: images must be of the training images' shape {expected}, got {shape}")
            if self.binarization == "fixed" and pixels.max() > 1:
                raise ValueError(
                    f"{split}: must hold zeros and ones where binarization is 'fixed', got {int(pixels.max())}"
                )
            if self.labels is not None:
                _check_labels(split, self.labels.get(split), len(pixels))

    def __repr__(self) -> str:
        size = f"{self.image_size[0]}x{self.image_size[1]}"
        of = f"{self.channels} channels" if self.channels > 1 else "grey"
        classes = f", {self.n_classes} classes" if self.labels is not None else ""
        what = f"Images {self.name}: {size}, {of}{classes}"
        return f"{what}\n  {self.split}\n  binarization {self.binarization}: {self.levels} levels"

    def _repr_png_(self) -> bytes | None:
        """The first training images, as a notebook shows them; None without Pillow."""
        try:
            image = require("PIL.Image")
        except ImportError:
            return None
        count = max(1, min(_SHOWN, _SHOWN_PIXELS // math.prod(self.image_size)))
        shown = self.train[:count] * (255 if self.binarization == "fixed" else 1)
        tiles = F.pad(shown, (1, 1, 1, 1), value=128)
        rows = [torch.cat(list(row), 2) for row in tiles.split(_SHOWN_IN_A_ROW)]
        rows[-1] = F.pad(rows[-1], (0, rows[0].shape[2] - rows[-1].shape[2]), value=128)
        picture = torch.cat(rows, 1).permute(1, 2, 0).squeeze(2)
        file = io.BytesIO()
        image.fromarray(picture.numpy()).save(file, "PNG")
        return file.getvalue()

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.train.shape[2], self.train.shape[3]

    @property
    def channels(self) -> int:
        """C, 1 or 3."""
        return self.train.shape[1]

    @property
    def levels(self) -> int:
        """Values that a pixel of a batch takes, k / (levels - 1) for k = 0..levels - 1."""
        return 256 if self.binarization == "none" else 2

    @property
    def dims(self) -> int:
        """Pixels times channels of an image: what bits per dimension are divided by."""
        return math.prod(self.train.shape[1:])

    @property
    def n_classes(self) -> int:
        """Classes that the labels count from 0; 0 where there are no labels."""
        return 0 if self.labels is None else 1 + max(int(labels.max()) for labels in self.labels.values())

    def pixels(self, split: Split) -> Tensor:
        """The bytes of a split, [N, C, H, W]."""
        if split not in SPLITS:
            raise ValueError(f"split: must be one of {', '.join(SPLITS)}, got {split!r}")
        return cast(Tensor, getattr(self, split))

    def only(self, classes: Collection[int]) -> Images:
        """The images of these classes, in every split; their labels stay as they are.

        Raises:
            ValueError: no labels; a class that no image has; a split that would be empty.
        """
        if self.labels is None:
            raise ValueError(f"labels: {self.name} has none")
        known = self._classes()
        wanted = sorted(set(classes))
        if not wanted or not set(wanted) <= set(known):
            raise ValueError(f"classes: must be some of {', '.join(map(str, known))}, got {wanted}")
        changed: dict[str, Any] = {"labels": {}}
        for split in SPLITS:
            rows = torch.isin(self.labels[split], torch.tensor(wanted, device="cpu"))
            if not rows.any():
                raise ValueError(f"classes: {split} must have images of them, got {wanted}")
            changed[split], changed["labels"][split] = self.pixels(split)[rows], self.labels[split][rows]
        return dataclasses.replace(self, **changed, split=f"{self.split}; of these classes {wanted} only")

    def without(self, classes: Collection[int]) -> Images:
        """The images of all other classes, in every split. Raises ValueError as `only` does."""
        self.only(classes)
        return self.only(set(self._classes()) - set(classes))

    def _classes(self) -> list[int]:
        """The classes that an image has, in order."""
        return [] if self.labels is None else torch.cat(list(self.labels.values())).unique().tolist()

    def batches(
        self, split: Split, batch_size: int, *, generator: torch.Generator, shuffle: bool = False
    ) -> Iterator[Tensor]:
        """float32 batches [<= batch_size, C, H, W]; order and pixels are a function of the generator's state."""
        for rows in self._rows(split, batch_size, generator, shuffle):
            yield binarize(self.pixels(split)[rows], self.binarization, generator)

    def labelled_batches(
        self, split: Split, batch_size: int, *, generator: torch.Generator, shuffle: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches that `batches` gives for the same state of the generator, each with its labels, int64 [B]."""
        if self.labels is None:
            raise ValueError(f"labels: {self.name} has none")
        for rows in self._rows(split, batch_size, generator, shuffle):
            yield binarize(self.pixels(split)[rows], self.binarization, generator), self.labels[split][rows]

    def _rows(self, split: Split, batch_size: int, generator: torch.Generator, shuffle: bool) -> tuple[Tensor, ...]:
        if batch_size < 1:
            raise ValueError(f"batch_size: must be at least 1, got {batch_size}")
        n = len(self.pixels(split))
        order = torch.arange(n, device="cpu")
        if shuffle:
            order = torch.randperm(n, generator=generator, device="cpu")
        return order.split(batch_size)

    def fixed(self, split: Split, seed: int = 0) -> Tensor:
        """The whole split as one batch: the same images for the same seed."""
        return binarize(self.pixels(split), self.binarization, torch.Generator().manual_seed(seed))


def binarize(pixels: Tensor, how: str, generator: torch.Generator | None = None) -> Tensor:
    """uint8 -> float32 of the same shape: zeros and ones, or grey levels k / 255 where `how` is "none".

    Equivalent to::

        x = {
            "dynamic": lambda: torch.bernoulli(pixels / 255, generator=generator),
            "threshold": lambda: (pixels / 255 >= 0.5).float(),
            "fixed": lambda: pixels.float(),
            "none": lambda: pixels / 255,
        }[how]()
    """
    if how == "threshold":
        return (pixels >= 128).float()
    if how == "dynamic":
        return torch.bernoulli(pixels.float() / 255, generator=generator)
    if how == "fixed":
        return pixels.float()
    if how == "none":
        return pixels.float() / 255
    raise ValueError(f"binarization: must be one of {', '.join(BINARIZATIONS)}, got {how!r}")


def _check_labels(split: Split, labels: Tensor | None, n: int) -> None:
    rule = f"{split}: labels must be int64 [{n}], from 0 to {_MAX_CLASSES - 1}"
    if labels is None or labels.dtype != torch.int64 or tuple(labels.shape) != (n,):
        found = "none" if labels is None else f"{labels.dtype} {tuple(labels.shape)}"
        raise ValueError(f"{rule}, got {found}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= _MAX_CLASSES:
        raise ValueError(f"{rule}, got {low if low < 0 else high}")
