"""The figures of an epoch: kept in the history, shown while it runs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from .._extras import live, progress_bar, progress_line

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


class Shown:
    """What a run shows of its epochs on stderr: a bar while one runs, where that can be redrawn; a line at its end."""

    def __init__(self, shown: bool, epochs: int) -> None:
        self.shown, self.epochs, self.number = shown, epochs, 0
        self.bar: Any = None

    @contextlib.contextmanager
    def epoch(self, number: int, steps: int) -> Iterator[None]:
        """The bar of an epoch of so many steps, gone at its end."""
        self.number = number
        shown = self.shown and live()
        short = {"bar_format": "{l_bar}{bar:12}| {elapsed}<{remaining}{postfix}"} if sys.stderr.isatty() else {}
        with progress_bar(shown, desc=self._label(), total=steps, leave=False, **short) as self.bar:
            yield

    def step(self, loss: float) -> None:
        """One update is done; the mean loss of the epoch so far, nats per image."""
        self.bar.set_postfix_str(f"loss {loss:.2f}", refresh=False)
        self.bar.update()

    def end(self, figures: str, seconds: float) -> None:
        """The line of an epoch that took so many seconds, with what the others will take."""
        if self.shown:
            left = (self.epochs - self.number) * seconds
            coming = f", about {duration(left)} left" if left else ""
            progress_line(f"{self._label()}: {figures}; {duration(seconds)}{coming}")

    def note(self, text: str) -> None:
        """A line about the run."""
        if self.shown:
            progress_line(text)

    def _label(self) -> str:
        return f"epoch {self.number:>{len(str(self.epochs))}}/{self.epochs}"


def duration(seconds: float) -> str:
    """Seconds in two units at most: 0.4 s, 12 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
