"""Walks through a module's parts by what torch keeps of them, whatever its class calls its own attributes.

Somebody's child may be called ``modules``, and somebody's class may have a ``named_modules`` of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from torch import nn


def named_parts(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Path and module, the root's path empty; each module once, as `nn.Module.named_modules` has them."""
    seen: set[int] = set()

    def below(path: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        if id(module) not in seen:
            seen.add(id(module))
            yield path, module
            for name, part in children_of(module):
                yield from below(f"{path}.{name}".removeprefix("."), part)

    return below("", root)


def kept(module: nn.Module, what: str) -> dict[str, Any]:
    """A module's ``_modules`` or ``_parameters``; TorchScript keeps them elsewhere."""
    own = vars(module).get(what)
    return dict(getattr(module, what).items()) if own is None else own


def children_of(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Name and module of the parts of a module, those that are None left out."""
    return [(name, part) for name, part in kept(module, "_modules").items() if part is not None]


def parts_of(root: nn.Module) -> Iterator[nn.Module]:
    """The root and all modules below it, each once."""
    return (module for _, module in named_parts(root))


def part_at(root: nn.Module, path: str) -> nn.Module:
    """The module at a path of `named_parts`."""
    module: Any = root
    for name in filter(None, path.split(".")):
        module = kept(module, "_modules")[name]
    return cast(nn.Module, module)


def named_parameters_of(root: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Path and parameter, each once."""
    seen: set[int] = set()
    for path, module in named_parts(root):
        for name, parameter in kept(module, "_parameters").items():
            if parameter is not None and id(parameter) not in seen:
                seen.add(id(parameter))
                yield f"{path}.{name}".removeprefix("."), parameter


def parameters_of(root: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters of a module and of all below it, each once."""
    return (parameter for _, parameter in named_parameters_of(root))
