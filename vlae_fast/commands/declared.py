"""Options of a command that stand in a declaration (`models.rules`), such as `training.Settings`.

A parameter of type ``Annotated[dict[str, Any], Fields(Settings)]`` stands for the options that `Settings` declares: the
command line has each of them, and the command gets their values in a dict.
"""

from __future__ import annotations

import functools
import inspect
import re
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from ..models.rules import Flag, Option, Real, Whole, declared


@dataclass(frozen=True)
class Fields:
    """Marks a parameter that stands for the options of a declaration.

    without: those that the command decides. chosen_later: those that are None where they are not given, for the command
    to choose, with the choice in words. at_least: lower bounds above those declared.
    """

    of: type
    without: Collection[str] = ()
    chosen_later: Mapping[str, str] = field(default_factory=dict)
    at_least: Mapping[str, int] = field(default_factory=dict)

    def parameters(self) -> list[inspect.Parameter]:
        """One keyword parameter for each option, as typer reads them."""
        return [self._parameter(found) for name, found in declared(self.of).items() if name not in self.without]

    def _parameter(self, found: Option) -> inspect.Parameter:
        kind, default, text = found.type, found.default, re.sub("`(.*?)`", lambda m: _spelled(m[1]), found.help)
        if choice := self.chosen_later.get(found.name):
            kind, default, text = kind | None, None, f"{text}  [default: {choice}]"
        least = self.at_least.get(found.name, _least(found))
        shown = typer.Option(*_flag(found), min=least, help=text)
        return inspect.Parameter(
            found.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, shown]
        )


def with_fields(command: Callable[..., None]) -> Callable[..., None]:
    """Puts in place of a command's `Fields` parameters the options that they stand for."""
    types = typing.get_type_hints(command, include_extras=True)
    groups: dict[str, list[inspect.Parameter]] = {}
    parameters: list[inspect.Parameter] = []
    for own in inspect.signature(command).parameters.values():
        if marks := [mark for mark in typing.get_args(types[own.name]) if isinstance(mark, Fields)]:
            groups[own.name] = marks[0].parameters()
            parameters += groups[own.name]
        else:
            parameters.append(own.replace(annotation=types[own.name]))

    @functools.wraps(command)
    def wrapped(**given: Any) -> None:
        gathered = {name: {p.name: given.pop(p.name) for p in group} for name, group in groups.items()}
        command(**gathered, **given)

    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapped


def _spelled(name: str) -> str:
    """An option's name on the command line."""
    return "--" + name.replace("_", "-")


def _flag(found: Option) -> tuple[str, ...]:
    """The names of a flag: --tied, and for use_flow, which is on where it is not given, --flow/--no-flow.

    The latter is --use-flow/--no-use-flow as well.
    """
    if not isinstance(found.rule, Flag):
        return ()
    names = dict.fromkeys((_spelled(found.name.removeprefix("use_")), _spelled(found.name)))
    return tuple(f"{name}/--no-{name[2:]}" if found.default else name for name in names)


def _least(found: Option) -> float | None:
    """The bound that the command line shows and checks itself: an inclusive one that is the whole rule."""
    if isinstance(found.rule, Real) and (found.rule.high, found.rule.below) != (None, None):
        return None
    return found.rule.low if isinstance(found.rule, Whole | Real) else None
