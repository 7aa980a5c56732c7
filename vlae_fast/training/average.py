"""Polyak averaging: the weights are trained, and a running mean of them is evaluated and saved."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from ..checkpoint.tensors import moving


class Average:
    """The exponential moving average of a model's weights after each step, without a trace of the initial ones:

        average after step t  =  sum of D^(t - i) w_i  /  sum of D^(t - i),  i = 1 ... t

    Averaged are the parameters, and with them the running statistics of batch normalisation; whole-number buffers are
    those of the last step.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.tensors = {name: p.detach().clone() for name, p in moving(model).items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the weights after `step`, a number from 0."""
        weight = (1 - self.decay) / (1 - self.decay ** (step + 1))
        for name, parameter in moving(self.model).items():
            self.tensors[name].lerp_(parameter, weight)

    def load(self, average: Mapping[str, Tensor]) -> None:
        for name, tensor in self.tensors.items():
            tensor.copy_(average[name].detach())

    @contextlib.contextmanager
    def in_place(self) -> Iterator[Mapping[str, Tensor]]:
        """Puts the averaged weights into the model, and the trained ones back at the end; gives the trained ones."""
        self.swap()
        try:
            yield self.tensors
        finally:
            self.swap()

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges the trained and the averaged weights."""
        for name, parameter in moving(self.model).items():
            trained = parameter.clone()
            parameter.copy_(self.tensors[name])
            self.tensors[name].copy_(trained)
