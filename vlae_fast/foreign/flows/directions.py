"""The two directions of anybody's flow: which of its methods is one pass of a network, and which takes D of them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..code import is_library
from ..swap import own_method
from ..walk import named_parameters_of
from .structure import NotCoveredError
from .tape import Tape, TooManyError


class NoFlowError(NotCoveredError):
    """None of a module's methods is a pass of a network of which another takes several."""


# Directions by the names that people give them: one is a pass of the network, the other D of them.
DIRECTIONS = (
    *("forward", "inverse", "backward", "encode", "decode", "f", "g", "transform", "reverse", "invert", "inv"),
    *("_call", "_inverse", "_forward", "forward_p", "inverse_transform", "normalize", "generate", "sample"),
    *("flow", "to_noise", "to_data", "x_to_z", "z_to_x", "x_to_u", "u_to_x", "forward_pass", "inverse_pass"),
)


# Arguments by which one method has both directions, and their values for the one that is not the default.
MODES: dict[str, tuple[Any, ...]] = {
    "mode": ("inverse", "reverse", "backward"),
    "direction": ("inverse", "reverse", "backward"),
    **dict.fromkeys(("reverse", "rev", "inverse", "inv", "invert", "backward"), (True,)),
}


class Direction(NamedTuple):
    """A method of a flow that is called with x, and with arguments by name."""

    method: str
    given: tuple[tuple[str, Any], ...] = ()

    def of(self, flow: nn.Module, x: Tensor) -> Any:
        """By the flow's own code."""
        return own_method(flow, self.method)(x, **dict(self.given))

    def __str__(self) -> str:
        return (
            f"{self.method}({', '.join(f'{name}={value!r}' for name, value in self.given)})"
            if self.given
            else self.method
        )


def second_of(out: Any) -> Tensor | None:
    """The second value that a direction returns, if that is a tensor."""
    values = list(out.values()) if isinstance(out, dict) else out if isinstance(out, tuple | list) else []
    return values[1] if len(values) == 2 and isinstance(values[1], Tensor) else None


def first_of(out: Any) -> Tensor:
    """The transformed tensor of what a direction returns: that, or the first of a tuple, a list or a dict."""
    if isinstance(out, dict) and out:
        out = next(iter(out.values()))
    elif isinstance(out, tuple | list) and out:
        out = out[0]
    if not isinstance(out, Tensor):
        raise NotCoveredError(f"a direction of it returns {type(out).__name__}, not a tensor")
    return out


def directions_of(flow: nn.Module, twin: nn.Module) -> tuple[int, Direction, Direction]:
    """D, and the directions that map x to u in one pass, and u to x in D. Raises NotCoveredError."""
    sizes = {n for _, p in named_parameters_of(twin) if p.dim() == 2 for n in (p.shape[1], p.shape[0])}
    for dim in sorted(sizes)[:8]:
        counts = dict(_passes(twin, dim))
        once = [direction for direction, count in counts.items() if count == 1]
        often = [direction for direction, count in counts.items() if count > 1]
        if dim > 1 and once and often:
            return dim, once[0], often[0]
    raise NoFlowError


def _passes(twin: nn.Module, dim: int) -> Iterator[tuple[Direction, int]]:
    """Directions that map ``[B, D]`` to such, and how often they pass through the network, up to 2."""
    x = torch.randn(3, dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for direction in directions_in_use(twin):
        tape = Tape(most=64)
        try:
            with tape, torch.no_grad():
                out = first_of(direction.of(twin, x.clone()))
            if out.shape != x.shape:
                continue
        except TooManyError:
            yield direction, 2
            continue
        except Exception:  # other people's code, and no direction of such a flow
            continue
        firsts = [product.weight for product in tape.products[:1]]
        yield direction, sum(p.weight.shape == f.shape and p.weight.equal(f) for f in firsts for p in tape.products)


def may_be_flow(flow: nn.Module) -> bool:
    """True where a module's own class has two methods that may be a flow's directions, and weights to compute with."""
    own = [p for _, p in named_parameters_of(flow)]
    if any(map(nn.parameter.is_lazy, own)):  # it has no shapes yet
        return False
    if is_library(type(flow)) or not any(p.dim() == 2 and not p.is_meta for p in own):
        return False
    return len(directions_in_use(flow)) > 1


def directions_in_use(flow: nn.Module) -> list[Direction]:
    """The methods of `DIRECTIONS` that the flow's own class defines, which can be called with x, or x and a mode."""
    found = []
    for name in DIRECTIONS:
        owner = next((k for k in type(flow).__mro__ if name in vars(k) and "_vlae_fast_kind" not in vars(k)), None)
        if owner is None or is_library(owner):
            continue
        try:
            _, *further = inspect.signature(own_method(flow, name)).parameters.values()
        except (TypeError, ValueError):
            continue
        variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        if all(p.default is not inspect.Parameter.empty or p.kind in variable for p in further):
            found.append(Direction(name))
            modes = [(p.name, value) for p in further for value in MODES.get(p.name, ()) if p.default != value]
            found += [Direction(name, (mode,)) for mode in modes]
    return found
