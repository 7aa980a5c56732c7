"""Labels of images, which a class-conditional model is told: a symbol each, under a distribution over the classes.

A file has of the distribution a varint of each class, its weight; or nothing, and then all classes are alike: a label
takes ``log2(classes)`` bits.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..models.labels import check_no_labels, one_hot
from .container import Reader, varint
from .numbers import Floats
from .stack import Stack, weights_of


class Batch(NamedTuple):
    """Images ``[B, C, H, W]`` and their labels ``[B]``, None where a model takes none."""

    images: Tensor
    labels: Tensor | None = None

    def rows(self, start: int, stop: int) -> Batch:
        """The images from start up to below stop."""
        return Batch(self.images[start:stop], None if self.labels is None else self.labels[start:stop])

    def split(self, n: int) -> Iterator[Batch]:
        """Batches of n images, the last one of what is left."""
        return (self.rows(start, start + n) for start in range(0, len(self.images), n))


def joined(batches: Sequence[Batch]) -> Batch:
    """All images of one batch at least, in turn."""
    labels = [batch.labels for batch in batches if batch.labels is not None]
    return Batch(torch.cat([batch.images for batch in batches]), torch.cat(labels) if labels else None)


class Classes(NamedTuple):
    """The distribution of a label: whole numbers, the weights of n classes. n = 0: there are no labels."""

    n: int
    weights: Floats
    settings: bytes = b""  # what a file has of it

    def push(self, stack: Stack, labels: Tensor | None) -> None:
        """Labels ``[B]``; those of a model of one class take nothing."""
        if labels is not None and self.n > 1:
            stack.push_of_table(labels.numpy().astype(np.int32), self.weights)

    def pop(self, stack: Stack, n: int) -> Tensor | None:
        """The n labels that were pushed, int64."""
        if not self.n:
            return None
        found = stack.pop_of_table(n, self.weights) if self.n > 1 else np.zeros(n)
        return torch.from_numpy(found.astype(np.int64))


def check(model_classes: int, x: Tensor, labels: Tensor | None) -> Tensor | None:
    """Labels as integers of 64 bits on the CPU; ValueError or TypeError unless they are those of a model and images."""
    if not model_classes:
        check_no_labels("codec.encode", labels)
        return None
    one_hot("codec.encode", labels, model_classes, x)
    assert labels is not None
    return labels.to("cpu", torch.int64)


def fit(labels: Tensor | None, n: int) -> Classes:
    """The distribution of the labels of a file, or all classes alike: the cheaper one, with its own bytes."""
    alike = Classes(n, np.ones(n))
    if labels is None or not len(labels):
        return alike
    counts = np.bincount(labels.numpy(), minlength=n).astype(np.float64)
    weights = weights_of(counts)
    own = Classes(n, weights, b"".join(varint(int(w)) for w in weights))
    return own if _bits(counts, own) + 8 * len(own.settings) < _bits(counts, alike) else alike


def _bits(counts: Floats, classes: Classes) -> float:
    p = np.maximum(classes.weights, 1e-9) / classes.weights.sum()
    return float(-(counts * np.log2(p)).sum())


def read(settings: bytes, n: int, where: str) -> Classes:
    """The distribution over n classes, of the bytes that a file has of it."""
    if not settings:
        return Classes(n, np.ones(n))
    reader = Reader(settings, f"{where}: the labels' settings")
    weights = np.array([reader.varint("a weight", 0, 1 << 24) for _ in range(n)], np.float64)
    if not weights.any():
        raise reader.fail("a weight at least must be above 0")
    if reader.left:
        raise reader.fail(f"must end here, got {reader.left:,} bytes more")
    return Classes(n, weights, settings)


def crc_of(labels: Tensor | None, before: int) -> int:
    """CRC-32 of what stood before, then of labels, four bytes each."""
    return before if labels is None else zlib.crc32(labels.numpy().astype("<u4").tobytes(), before)
