"""A stack of symbols in as few bytes as their probabilities ask for: constriction's ANS coder.

What was pushed last is popped first. Arrays are pushed so that they are popped from their first element on.

Source: Duda 2013, arXiv 1311.2540.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._extras import require
from .numbers import Floats

Symbols = NDArray[np.int32]
WORD = 4  # bytes of a word of the coder
_MOST_WEIGHT = 1 << 12  # of a table, all together, about


class Stack:
    """words: what a stack has at its start, as ``words`` gave it.

    least: bits that it held when it held fewest, of what `pop_normal` left.
    """

    def __init__(self, words: NDArray[np.uint32] | None = None) -> None:
        coder = require("constriction").stream.stack.AnsCoder
        self._coder: Any = coder() if words is None or not len(words) else coder(words)
        self.least = self.bits

    @property
    def bits(self) -> int:
        """That the stack holds, up to a word."""
        return int(self._coder.num_valid_bits())

    @property
    def words(self) -> NDArray[np.uint32]:
        """All of it; the last word is not 0."""
        found: NDArray[np.uint32] = self._coder.get_compressed()
        return found

    def push_bits(self, bits: Symbols, p: Floats) -> None:
        """Bits of probabilities p of a 1, see `numbers.decision`."""
        if len(bits):
            self._coder.encode_reverse(bits, _bernoulli(), p)

    def pop_bits(self, p: Floats) -> Symbols:
        found: Symbols = self._coder.decode(_bernoulli(), p) if len(p) else np.zeros(0, np.int32)
        return found

    def push_of_table(self, symbols: Symbols, weights: Floats) -> None:
        """Symbols k of probability ``weights[k] / sum(weights)``, whole numbers of which one at least is not 0."""
        if len(symbols):
            self._coder.encode_reverse(symbols, _categorical(weights))

    def pop_of_table(self, n: int, weights: Floats) -> Symbols:
        found: Symbols = self._coder.decode(_categorical(weights), n) if n else np.zeros(0, np.int32)
        return found

    def push_normal(self, symbols: Symbols, mean: Floats, scale: Floats, most: int) -> None:
        """Whole numbers from -most to most, the cells of width 1 of normal distributions."""
        if len(symbols):
            self._coder.encode_reverse(symbols, _normal(most), mean, scale)

    def pop_normal(self, mean: Floats, scale: Floats, most: int) -> Symbols:
        found: Symbols = self._coder.decode(_normal(most), mean, scale) if len(mean) else np.zeros(0, np.int32)
        self.least = min(self.least, self.bits)
        return found


def weights_of(counts: Floats) -> Floats:
    """Weights of a table as a file has them: whole numbers, about in proportion to the counts, at least 1 of each."""
    return np.where(counts > 0, np.maximum(1, np.rint(counts * min(1.0, _MOST_WEIGHT / counts.sum()))), 0)


def to_bytes(words: NDArray[np.uint32]) -> bytes:
    """Words without the zeros that end the last one."""
    return words.astype("<u4").tobytes().rstrip(b"\0")


def from_bytes(data: bytes) -> NDArray[np.uint32]:
    """What `to_bytes` was given. Any bytes give words that a stack takes."""
    data = data.rstrip(b"\0")
    padded = data + b"\0" * (-len(data) % WORD)
    return np.frombuffer(padded, "<u4").astype(np.uint32)


@lru_cache(maxsize=1)
def _bernoulli() -> Any:
    return require("constriction").stream.model.Bernoulli(perfect=False)


@lru_cache(maxsize=4)
def _normal(most: int) -> Any:
    return require("constriction").stream.model.QuantizedGaussian(-most, most)


def _categorical(weights: Floats) -> Any:
    return require("constriction").stream.model.Categorical(weights, perfect=False)
