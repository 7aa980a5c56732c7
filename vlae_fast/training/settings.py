"""What decides the result of a run, beside the model and the data, and how it changes from step to step."""

from __future__ import annotations

import math
from dataclasses import dataclass

OPTIMIZERS = ("adam", "adamax")
LR_SCHEDULES = ("constant", "cosine")


@dataclass(frozen=True)
class Settings:
    """Everything but the model and the data that decides what a run computes; a resumed run must have the same.

    batch_size: images per update. lr: step size of the optimizer. lr_decay: factor on lr after each epoch.
    lr_schedule: "cosine" lowers lr to 0 over all steps of the run. polyak: decay D of `Average`, 0 for none.
    warmup_epochs: over which the weight of the KL rises to 1; may be a fraction. free_bits: bits per image of KL that
    cost nothing.
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

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size: must be at least 1, got {self.batch_size}")
        if not 0 < self.lr_decay <= 1:
            raise ValueError(f"lr_decay: must be > 0 and <= 1, got {self.lr_decay}")
        if not 0 <= self.polyak < 1:
            raise ValueError(f"polyak: must be >= 0 and < 1, got {self.polyak}")
        for name, low in (("lr", 0.0), ("free_bits", 0.0), ("warmup_epochs", 0)):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= low) or (name == "lr" and value == 0):
                raise ValueError(f"{name}: must be finite and {'> 0' if name == 'lr' else '>= 0'}, got {value}")
        for name, names in (("optimizer", OPTIMIZERS), ("lr_schedule", LR_SCHEDULES)):
            if getattr(self, name) not in names:
                raise ValueError(f"{name}: must be one of {', '.join(names)}, got {getattr(self, name)!r}")


@dataclass(frozen=True)
class Schedule:
    """What changes with the step, a number from 0 that goes on from epoch to epoch: no state, so nothing to save."""

    settings: Settings
    epochs: int
    steps: int  # per epoch

    def lr(self, step: int) -> float:
        """lr * lr_decay^epoch, and for the cosine schedule * (1 + cos(pi step / all steps)) / 2."""
        s = self.settings
        lr = s.lr * s.lr_decay ** (step // self.steps)
        return (
            lr * 0.5 * (1 + math.cos(math.pi * step / (self.epochs * self.steps))) if s.lr_schedule == "cosine" else lr
        )

    def kl_weight(self, step: int) -> float:
        """Rises by equal amounts from 1 / (w + 1) to 1, w being the steps of the warm-up."""
        return min(1.0, (step + 1) / (self.settings.warmup_epochs * self.steps + 1))
