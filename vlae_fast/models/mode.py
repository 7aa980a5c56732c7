"""Evaluation mode for a while: what looks at a model leaves its running statistics and its modes as they are."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from torch import nn

Function = TypeVar("Function", bound=Callable[..., Any])


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; then each module has its own mode again, an exception or not."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def in_evaluation(function: Function) -> Function:
    """Decorates a function whose first argument is a model, which it is given in evaluation mode."""

    @functools.wraps(function)
    def wrapped(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with evaluating(model):
            return function(model, *args, **kwargs)

    return wrapped  # type: ignore[return-value]
