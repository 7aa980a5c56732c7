"""Noise by number: that of image i is a function of the seed and i, whoever draws it and what beside it."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

_BLOCK = 4  # numbers of 64 bits that Philox gives for a value of its counter


def numbered_noise(
    seed: int, first: int, n: int, shape: tuple[int, ...], dtype: torch.dtype, *, normal: bool = False, stream: int = 0
) -> Tensor:
    """Noise of the images of the numbers first to first + n - 1, ``[n, *shape]`` on the CPU: a function of the number.

    It is uniform in [0, 1), or standard normal, by a generator whose state is a counter: no earlier number is drawn.

    Args:
        dtype: of a floating-point number. seed: from 0, below 2^64.
        stream: images have as many independent ones as are asked for, from 0, below 2^64.

    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", as numpy.random.Philox; Box and Muller
    1958 for normal numbers.
    """
    numbers = math.prod(shape)
    blocks = -(-numbers * (2 if normal else 1) // _BLOCK)  # of an image, which has counters of its own
    counter = np.array([first * blocks, 0, 0, stream], dtype=np.uint64)
    bits = np.random.Philox(key=seed, counter=counter).random_raw(n * blocks * _BLOCK).reshape(n, blocks * _BLOCK)
    if normal:
        above_zero, angle = (_uniform(bits[:, start : 2 * numbers : 2], 53) for start in (0, 1))
        drawn = np.sqrt(-2 * np.log(1 - above_zero)) * np.cos(2 * np.pi * angle)
    else:
        drawn = _uniform(bits[:, :numbers], round(1 - math.log2(torch.finfo(dtype).eps)))
    return torch.from_numpy(drawn).to(dtype).view(n, *shape)


def _uniform(bits: np.ndarray, digits: int) -> np.ndarray:
    """In [0, 1), of so many binary digits."""
    return np.asarray((bits >> np.uint64(64 - digits)) * 2.0**-digits)
