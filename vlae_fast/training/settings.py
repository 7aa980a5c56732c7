"""What decides the result of a run, beside the model and the data, and how it changes from step to step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

_NAMES = {"optimizer": ("adam", "adamax"), "lr_schedule": ("constant", "cosine"), "objective": ("elbo", "iwae")}
_RULES: dict[str, tuple[Callable[[float], bool], str]] = {
    "batch_size": (lambda n: n >= 1, "at least 1"),
    "samples": (lambda n: n >= 1, "at least 1"),
    "lr": (lambda v: v > 0, "finite and > 0"),
    "lr_decay": (lambda v: 0 < v <= 1, "> 0 and <= 1"),
    "polyak": (lambda v: 0 <= v < 1, ">= 0 and < 1"),
} | dict.fromkeys(
    ("beta", "warmup_epochs", "free_bits", "soft_free_bits", "denoise"), (lambda v: v >= 0, "finite and >= 0")
)


@dataclass(frozen=True)
class Settings:
    """Everything but the model and the data that decides what a run computes; a resumed run must have the same.

    Args:
        batch_size: images per update. seed: of order, binarization, noise and z.
        optimizer: ``adam`` or ``adamax``. lr: its step size. lr_decay: factor on lr after each epoch.
        lr_schedule: ``constant``, or ``cosine``, which lowers lr to 0 over all steps of the run.
        polyak: decay D of a running mean of the weights, 0 for none.
        objective: ``elbo``, or ``iwae``, the importance-weighted bound of `samples` draws of z an image.
        samples: 1 for ``elbo``. beta: weight of the KL. warmup_epochs: over which it rises from 0; may be a fraction.
        free_bits: bits per image of KL that cost nothing.
        soft_free_bits: bits per image that the KL is kept close to, by a weight that is steered.
        denoise: noise on what the encoder sees, see `data.corrupt`.

    Raises:
        ValueError: a value breaks a rule, or two do not go together.
    """

    batch_size: int = 64
    lr: float = 1e-3
    lr_decay: float = 1.0
    seed: int = 0
    warmup_epochs: float = 0.0
    free_bits: float = 0.0
    optimizer: str = "adam"
    lr_schedule: str = "constant"
    polyak: float = 0.0
    objective: str = "elbo"
    samples: int = 1
    beta: float = 1.0
    soft_free_bits: float = 0.0
    denoise: float = 0.0

    def __post_init__(self) -> None:
        for name, names in _NAMES.items():
            if getattr(self, name) not in names:
                raise ValueError(f"{name}: must be one of {', '.join(names)}, got {getattr(self, name)!r}")
        for name, (fits, rule) in _RULES.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and fits(value)):
                raise ValueError(f"{name}: must be {rule}, got {value}")
        if self.objective == "iwae" and self.samples < 2:
            raise ValueError(
                f"samples: must be at least 2 where objective is 'iwae' (1 is the ELBO), got {self.samples}"
            )
        if self.objective == "iwae" and (self.free_bits or self.soft_free_bits):
            bits = f"free_bits {self.free_bits} and soft_free_bits {self.soft_free_bits}"
            raise ValueError(f"objective: must be 'elbo' where there are free bits, got 'iwae' with {bits}")
        if self.soft_free_bits:
            for name, value in (("free_bits", 0), ("warmup_epochs", 0), ("beta", 1)):
                if getattr(self, name) != value:
                    steered = "where soft_free_bits steers the weight of the KL"
                    raise ValueError(f"{name}: must be {value} {steered}, got {getattr(self, name)}")


@dataclass(frozen=True)
class Schedule:
    """What changes with the step, a number from 0 that goes on from epoch to epoch: no state, so nothing to save."""

    settings: Settings
    epochs: int
    steps: int  # per epoch

    def lr(self, step: int) -> float:
        """lr * lr_decay^epoch, and for the cosine schedule * (1 + cos(pi step / all steps)) / 2."""
        lr = self.settings.lr * self.settings.lr_decay ** (step // self.steps)
        if self.settings.lr_schedule == "cosine":
            lr *= 0.5 * (1 + math.cos(math.pi * step / (self.epochs * self.steps)))
        return lr

    def kl_weight(self, step: int) -> float:
        """Rises by equal amounts from beta / (w + 1) to beta, w being the steps of the warm-up."""
        return self.settings.beta * min(1.0, (step + 1) / (self.settings.warmup_epochs * self.steps + 1))
