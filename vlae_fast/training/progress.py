"""The figures of an epoch: kept in the history, shown while it runs."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

from .._extras import require

History = list[dict[str, float]]

_PARTS = ("loss", "reconstruction", "kl", "bits_per_dim")
FIGURES = {"epoch", "seconds", *_PARTS, *(f"valid_{part}" for part in _PARTS)}  # of each epoch


Bits = Callable[[float], float]  # bits per dimension of nats per image


def row(prefix: str, reconstruction: float, kl: float, bits: Bits) -> dict[str, float]:
    loss = reconstruction + kl
    figures = {"loss": loss, "reconstruction": reconstruction, "kl": kl, "bits_per_dim": bits(loss)}
    return {prefix + key: value for key, value in figures.items()}


def text(reconstruction: float, kl: float, bits: Bits) -> str:
    loss = reconstruction + kl
    return f"loss {loss:.2f} = reconstruction {reconstruction:.2f} + KL {kl:.2f} nats/image, {bits(loss):.4f} bits/dim"


def bar(shown: bool, epoch: int, epochs: int, steps: int) -> Any:
    label = f"epoch {epoch:>{len(str(epochs))}}/{epochs}"
    layout = "{l_bar}{bar:12}| {elapsed}{postfix}"
    interval = 0.5 if sys.stderr.isatty() else math.inf  # a log file gets the first and the last state of a bar only
    return require("tqdm").tqdm(
        desc=label, total=steps, file=sys.stderr, disable=not shown, bar_format=layout, mininterval=interval
    )
