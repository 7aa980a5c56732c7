"""A chain of batches on one stack: each pays for its codes with the bits of those before it.

A chunk of a file is: varint of the words that the stack starts with, varint of the number of batches, their sizes, the
stack. The first words are bits of a fixed sequence, and count; who has decoded all batches finds them again.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from .bits_back import Given, Latent
from .container import FileError, Reader, varint
from .labels import Batch, Classes, joined
from .pixels import Pixels
from .stack import Stack, from_bytes, to_bytes

BATCH = 256  # images at most that are coded at once
_RESERVE = 64  # bits that a stack keeps, so that no pop meets its bottom
_MARGIN = 1.2  # of what a batch is expected to pop
_FIRST_WORDS, _MORE_WORDS = 4, 2
_MOST_WORDS = 1 << 16


class _EmptyError(Exception):
    """A batch popped more than the stack had."""


def first_words(n: int) -> NDArray[np.uint32]:
    """Words that a stack may start with: SHA-256 of a counter; the last is not 0."""
    blocks = b"".join(hashlib.sha256(b"vlae" + i.to_bytes(4, "little")).digest() for i in range(-(-n // 8)))
    return np.frombuffer(blocks, "<u4")[:n].astype(np.uint32) | np.uint32(1)


def push(batch: Batch, pixels: Pixels, latent: Latent, classes: Classes) -> bytes:
    """The chunk of images and labels."""
    n_words, posterior = _FIRST_WORDS, latent.posterior_of(batch.images, batch.labels)
    while True:
        try:
            return _push(batch, posterior, pixels, latent, classes, n_words)
        except _EmptyError:
            if n_words > _MOST_WORDS:
                raise ValueError(
                    "codec: bits back must find bits for a code, got a posterior that takes too many"
                ) from None
            n_words += max(_MORE_WORDS, n_words // 4)


def _push(batch: Batch, posterior: Given, pixels: Pixels, latent: Latent, classes: Classes, n_words: int) -> bytes:
    stack, sizes, at, each = Stack(first_words(n_words)), [], 0, 0.0  # each: bits that an image popped
    n = len(batch.images)
    while at < n:
        room = int((stack.bits - _RESERVE) / (_MARGIN * each)) if each else 1 if latent.dims else BATCH
        size = min(max(room, 1), BATCH, n - at)
        before = stack.words
        held = stack.least = stack.bits
        levels, z = latent.pop_posterior(stack, posterior.rows(at, at + size))
        if stack.least >= _RESERVE:
            images, labels = batch.rows(at, at + size)
            pixels.push(stack, images, pixels.given(z, labels))
            latent.push_prior(stack, levels)  # which may pop too
            classes.push(stack, labels)
        if stack.least < _RESERVE:
            if size == 1:
                raise _EmptyError
            stack, each = Stack(before), 2 * each
            continue
        each = (held - stack.least) / size
        sizes.append(size)
        at += size
    head = b"".join(map(varint, [n_words, len(sizes), *sizes]))
    return head + to_bytes(stack.words)


def pop(payload: bytes, n: int, pixels: Pixels, latent: Latent, classes: Classes) -> Batch:
    """The n images of a chunk and their labels; FileError where that cannot be."""
    reader = Reader(payload, "the chain")
    n_words, n_sizes = reader.varint("first words", 0, 2 * _MOST_WORDS), reader.varint("batches", 0, n)
    sizes = [reader.varint("a batch", 1, BATCH) for _ in range(n_sizes)]
    if sum(sizes) != n:
        raise reader.fail(f"batches must have {n} images, got {sum(sizes)}")
    stack, batches = Stack(from_bytes(reader.bytes(reader.left, "the stack"))), []
    for size in reversed(sizes):
        labels = classes.pop(stack, size)
        levels, z = latent.pop_prior(stack, size)
        images = pixels.pop(stack, size, pixels.given(z, labels))
        latent.push_posterior(stack, latent.posterior_of(images, labels), levels, z)
        batches.append(Batch(images, labels))
    if not np.array_equal(stack.words, first_words(n_words)):
        raise FileError("the stack must end as it started: the file is damaged, or this machine computes other bits")
    return joined(batches[::-1])
