"""A run of an accelerated model on an example, which times its layers on the shapes that they get there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from .probe import random_state_kept
from .report import Report
from .walk import parameters_of, parts_of


def run_on(model: nn.Module, example: Any, report: Report) -> None:
    """Calls the model with an example, with and without gradients; what is slower for both gets its own back.

    The example is the argument of the model, a tuple of several, or a dict of those given by name. Buffers and the
    state of random generators are what they were before.
    """
    kept = [(part, name, t.clone()) for part in parts_of(model) for name, t in part._buffers.items() if t is not None]
    with random_state_kept(*{p.device for p in parameters_of(model)}):
        try:
            for grad in (True, False):
                with torch.set_grad_enabled(grad):
                    _call(model, example)
        finally:
            with torch.no_grad():
                for part, name, value in kept:
                    part._buffers[name].copy_(value)  # type: ignore[union-attr]
    report.leave_slower_alone()


def _call(model: nn.Module, example: Any) -> None:
    if isinstance(example, Mapping):
        model(**example)
    else:
        model(*(example if isinstance(example, tuple) else (example,)))
