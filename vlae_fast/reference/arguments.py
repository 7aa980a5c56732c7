"""Arguments of the ops as their contracts hand them to every backend: checked, by records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Tensor


class Mask(NamedTuple):
    """The mask of `masked_linear`: degrees, or an adjacency in their place."""

    in_degrees: Tensor | None  # [I]
    out_degrees: Tensor | None  # [O]
    adjacency: Tensor | None = None  # [O, I], boolean


class Layers(NamedTuple):
    """The masked layers of `made_inverse`: L of each step of a flow, those of the first step in front."""

    weights: Sequence[Tensor]  # S L times [O, I]
    biases: Sequence[Tensor]  # S L times [O]
    degrees: Sequence[Tensor]  # of the inputs, the hidden layers, the outputs: L + 1, the same in every step
    cond: Tensor | None = None  # [B, S H], added to the first pre-activation of each step

    def steps(self, at_once: int = 1) -> Iterator[Layers]:
        """Shares of so many steps (the last one may be smaller), in the order in which they run."""
        if len(self.weights) <= at_once * (len(self.degrees) - 1):  # the usual call: nothing to cut
            yield self
            return
        n_layers, units = at_once * (len(self.degrees) - 1), at_once * self.degrees[1].shape[0]
        for share, i in enumerate(range(0, len(self.weights), n_layers)):
            of_layers, of_units = slice(i, i + n_layers), slice(share * units, (share + 1) * units)
            cond = None if self.cond is None else self.cond[:, of_units]
            yield Layers(self.weights[of_layers], self.biases[of_layers], self.degrees, cond)


class Transform(NamedTuple):
    """The transform of `made_inverse`."""

    activation: str = "relu"  # of the hidden layers
    scale: str = "exp"
