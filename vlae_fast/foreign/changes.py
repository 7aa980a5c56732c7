"""Whether somebody else's modules are still what they were when they were looked at."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from ..kept import state_of


class Kept:
    """A tensor that a layer computes with beside its weights, as it was when it was last looked at."""

    def __init__(self, owner: nn.Module, name: str) -> None:
        self.owner, self.name = owner, name
        self.tensor = getattr(owner, name)
        self.values, self.state = self.tensor.detach().clone(), state_of(self.tensor)

    def has_changed(self) -> bool:
        """Whether it has other values: they are compared where it is another tensor, or was written to."""
        now = getattr(self.owner, self.name, None)
        if not isinstance(now, Tensor):
            return True
        if now is self.tensor and self.state is not None and state_of(now) == self.state:
            return False
        if torch._C._functorch.is_batchedtensor(now):
            rule = "must be the same for all samples of torch.vmap: leave it out, or give it in_dims None"
            raise ValueError(f"accelerate: {self.name} of {type(self.owner).__name__} {rule}")
        if now.is_meta or type(now) not in (Tensor, nn.Parameter):
            return False  # a fake one: it has no values
        with _disable_current_modes():  # a tracer would take the comparison for a part of the model
            same = now.shape == self.values.shape and now.equal(self.values.to(now))
        if same:
            self.tensor, self.state = now, state_of(now)
        return not same


class Part(NamedTuple):
    """A module that a fast forward stands in for, its parts, and its plain numbers and flags."""

    module: nn.Module
    children: list[nn.Module | None]
    settings: dict[str, Any]

    @classmethod
    def of(cls, module: nn.Module) -> Part:
        plain = {n: v for n, v in vars(module).items() if isinstance(v, int | float | str) and n != "training"}
        return cls(module, list(module._modules.values()), plain)
