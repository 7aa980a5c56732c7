"""Declarations: a frozen dataclass whose fields say what they mean and what they may be.

    @declaration
    @dataclass(frozen=True)
    class Options:
        n_pointwise: int = option(4, Whole(0, 1 << 10), "1x1 blocks after the masked ones")

`declared(Options)` gives them by name. A constructor's checks, a checkpoint's rules and the command line read them.
"""

from __future__ import annotations

import dataclasses
import math
import operator
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

Declaration = TypeVar("Declaration", bound=type)


class Rule(Protocol):
    """A set of values. Both methods give the rule in words where `value` is not in it, else None."""

    def broken(self, value: Any) -> str | None:
        """Judges an argument of a call."""

    def broken_in_json(self, value: Any) -> str | None:
        """Judges a value of any type, such as a file may hold."""


@dataclass(frozen=True)
class Whole:
    """Integers from `low`. `high` binds files alone: a hostile number must not become a million layers."""

    low: int
    high: int | None = None

    def broken(self, value: Any) -> str | None:
        try:
            return None if self.low <= operator.index(value) else f"at least {self.low}"
        except TypeError:
            return f"an integer {self.words}"

    def broken_in_json(self, value: Any) -> str | None:
        whole = isinstance(value, int) and not isinstance(value, bool)
        if whole and self.low <= value and (self.high is None or value <= self.high):
            return None
        return f"an integer {self.words}"

    @property
    def words(self) -> str:
        return f"from {self.low}" if self.high is None else f"from {self.low} to {self.high:,}"


@dataclass(frozen=True)
class Pair:
    """Two integers, each as in `Whole`; `names` are what a message calls them."""

    each: Whole
    names: str

    def broken(self, value: Any) -> str | None:
        fits = len(value) == 2 and not any(map(self.each.broken, value))
        return None if fits else f"({self.names}), both positive"

    def broken_in_json(self, value: Any) -> str | None:
        fits = isinstance(value, list | tuple) and len(value) == 2 and not any(map(self.each.broken_in_json, value))
        return None if fits else f"two integers {self.each.words}"


@dataclass(frozen=True)
class Real:
    """Finite numbers from `low`, or above `above`; up to `high`, or below `below`."""

    low: float | None = None
    above: float | None = None
    high: float | None = None
    below: float | None = None

    def broken(self, value: Any) -> str | None:
        fits = (
            -math.inf < value < math.inf
            and (self.low is None or value >= self.low)
            and (self.above is None or value > self.above)
            and (self.high is None or value <= self.high)
            and (self.below is None or value < self.below)
        )
        return None if fits else self.words

    def broken_in_json(self, value: Any) -> str | None:
        return self.broken(value) if isinstance(value, int | float) and not isinstance(value, bool) else self.words

    @property
    def words(self) -> str:
        signs = {">=": self.low, ">": self.above, "<=": self.high, "<": self.below}
        bounds = [f"{sign} {bound:g}" for sign, bound in signs.items() if bound is not None]
        return " and ".join(bounds if len(bounds) == 2 else ["finite", *bounds])


@dataclass(frozen=True)
class Flag:
    """True or False."""

    def broken(self, value: Any) -> str | None:
        return None if value in (True, False) else "True or False"  # "no" is true

    def broken_in_json(self, value: Any) -> str | None:
        return None if isinstance(value, bool) else "true or false"


@dataclass(frozen=True)
class OneOf:
    """Names in a table; the table is read at each check, so that a row added to it counts."""

    table: Collection[str]

    def broken(self, value: Any) -> str | None:
        return None if value in self.table else f"one of {', '.join(self.table)}"

    def broken_in_json(self, value: Any) -> str | None:
        return None if isinstance(value, str) else "a string"  # the names are the constructor's to judge


@dataclass(frozen=True)
class Option:
    """One field of a declaration.

    rule: the values it may have. meaning: one line for `help`; other options stand in backticks, ``{names}`` for those
    of a `OneOf`. part: the part of a model that alone takes it, such as ``decoder``. type: its annotation.
    """

    name: str
    type: Any
    default: Any
    rule: Rule
    meaning: str
    part: str | None = None

    @property
    def optional(self) -> bool:
        """True where None is a value too."""
        return type(None) in typing.get_args(self.type)

    @property
    def help(self) -> str:
        """The meaning, with the names of a table filled in."""
        return self.meaning.replace("{names}", ", ".join(self.rule.table) if isinstance(self.rule, OneOf) else "")

    def broken(self, value: Any) -> str | None:
        """The rule in words where an argument breaks it."""
        if self.optional and value is None:
            return None
        try:
            return self.rule.broken(value)
        except TypeError:  # a value of another type: 28 for a pair, "4" for a number
            return self.rule.broken_in_json(value)

    def broken_in_json(self, value: Any) -> str | None:
        """The rule in words where a file's value breaks it."""
        return None if self.optional and value is None else self.rule.broken_in_json(value)


def option(default: Any, rule: Rule, meaning: str, *, part: str | None = None) -> Any:
    """A field of a declaration, see `Option`."""
    return dataclasses.field(default=default, metadata={"rule": rule, "meaning": meaning, "part": part})


def declared(cls: type) -> Mapping[str, Option]:
    """The options that a dataclass declares, by name and in order; other fields are left out."""
    types = typing.get_type_hints(cls)
    fields = [f for f in dataclasses.fields(cls) if "rule" in f.metadata]
    return {f.name: Option(f.name, types[f.name], f.default, **f.metadata) for f in fields}


def describe(subject: type, options: type) -> None:
    """Puts the options of a declaration, one a line, in place of ``{options}`` in the docstring of a class."""
    lines = (f"{o.name}: {o.help.replace('`', '``')}." for o in declared(options).values())
    if subject.__doc__:  # python -OO has none
        subject.__doc__ = subject.__doc__.replace("{options}", "\n        ".join(lines))


def declaration(cls: Declaration) -> Declaration:
    """Decorates a dataclass of options: its docstring lists them."""
    describe(cls, cls)
    return cls
