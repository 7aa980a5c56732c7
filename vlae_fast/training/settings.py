"""The settings of a run: with the model and the data they decide its result; some change from step to step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..models.rules import Flag, OneOf, Real, Whole, declaration, declared, option

_POSITIVE, _NOT_NEGATIVE = Real(above=0), Real(low=0)
_BETTER = 1e-4  # of the best loss so far, by which a better one is below it


@declaration
@dataclass(frozen=True)
class Settings:
    """Everything but the model and the data that decides what a run computes; a resumed run must have the same.

    Args:
        {options}
        seed: of order, binarization, noise and z.

    The KL's weight rises to beta. For denoise see `data.corrupt`.

    Raises:
        ValueError: a value breaks a rule, or two do not go together.
    """

    batch_size: int = option(64, Whole(1), "Images per update")
    lr: float = option(1e-3, _POSITIVE, "Step size, > 0")
    lr_decay: float = option(1.0, Real(above=0, high=1), "Factor on the step size after each epoch")
    lr_schedule: str = option(
        "constant",
        OneOf(("constant", "cosine", "plateau")),
        "constant; cosine: the step size falls to 0 over all steps of `epochs`; plateau: it falls where the validation "
        "loss does not",
    )
    plateau_factor: float = option(0.1, Real(above=0, below=1), "plateau: factor on the step size")
    plateau_patience: int = option(10, Whole(0), "plateau: epochs in a row without a better loss that are let pass")
    clip_grad: float = option(
        0.0, _NOT_NEGATIVE, "Largest norm of all gradients together, of the loss in nats per image, 0 for none: 1"
    )
    optimizer: str = option("adam", OneOf(("adam", "adamax")), "adam or adamax")
    polyak: float = option(
        0.0,
        Real(low=0, below=1),
        "Decay of the average of the weights that is evaluated and saved, 0 for none: 0.999",
    )
    objective: str = option(
        "elbo", OneOf(("elbo", "iwae")), "elbo, or iwae: the importance-weighted bound of `samples`"
    )
    samples: int = option(1, Whole(1), "Draws of z per image and update")
    path_derivative: bool = option(
        True,
        Flag(),
        "Gradient of log q(z|x) through z alone, which has less noise, where the posterior is Gaussian and the KL that "
        "of a draw; with iwae the doubly reparameterised one",
    )
    beta: float = option(1.0, _NOT_NEGATIVE, "Weight of the KL; 1 is the ELBO")
    warmup_epochs: float = option(
        0.0, _NOT_NEGATIVE, "Epochs over which the weight of the KL rises from 0, or a fraction of one"
    )
    free_bits: float = option(0.0, _NOT_NEGATIVE, "KL that costs nothing, in bits per image")
    soft_free_bits: float = option(0.0, _NOT_NEGATIVE, "KL, in bits per image, that its weight is steered to keep")
    denoise: float = option(
        0.0, _NOT_NEGATIVE, "Noise on what the encoder sees: probability that a binary pixel flips, or sigma"
    )
    flip: bool = option(
        False, Flag(), "Mirror each training image left to right with probability 1/2, anew in each epoch"
    )
    autocast: bool = option(
        False,
        Flag(),
        "Products in bfloat16 by torch.autocast, for a GPU or a CPU with AMX; the rest and validation stay float32",
    )
    seed: int = 0

    def __post_init__(self) -> None:
        for name, setting in declared(type(self)).items():
            if rule := setting.broken(value := getattr(self, name)):
                raise ValueError(f"{name}: must be {rule}, got {value!r}")
        self._check_together()

    def _check_together(self) -> None:
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
    """Values that change with the step, a number from 0 that goes on from epoch to epoch: no state, nothing to save."""

    settings: Settings
    epochs: int
    steps: int  # per epoch

    def lr(self, step: int) -> float:
        """lr * lr_decay^epoch, for cosine * (1 + cos(pi step / all steps)) / 2; for plateau see `plateau`."""
        lr = self.settings.lr * self.settings.lr_decay ** (step // self.steps)
        if self.settings.lr_schedule == "cosine":
            lr *= 0.5 * (1 + math.cos(math.pi * step / (self.epochs * self.steps)))
        return lr

    def plateau(self, losses: Sequence[float]) -> float:
        """The factor on the step size that epochs of these validation losses have brought; 1 but for plateau.

        The factor of `torch.optim.lr_scheduler.ReduceLROnPlateau` with this factor and patience. A loss is better than
        the best so far where it is below it by 1e-4 of its size, also where it is negative.
        """
        if self.settings.lr_schedule != "plateau":
            return 1.0
        factor, best, waited = 1.0, math.inf, 0
        for loss in losses:
            better = loss < best * (1 - math.copysign(_BETTER, best))
            best, waited = (loss, 0) if better else (best, waited + 1)
            if waited > self.settings.plateau_patience:
                factor, waited = factor * self.settings.plateau_factor, 0
        return factor

    def kl_weight(self, step: int) -> float:
        """Rises by equal amounts from beta / (w + 1) to beta, w being the steps of the warm-up."""
        return self.settings.beta * min(1.0, (step + 1) / (self.settings.warmup_epochs * self.steps + 1))
