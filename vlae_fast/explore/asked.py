"""A request's values, each checked as it is taken."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

from torch import Tensor

from .pixels import from_base64


class Asked:
    """What a request says, by name. Every method raises ValueError with name, rule and value where it breaks a rule."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    @classmethod
    def of_json(cls, body: bytes) -> Asked:
        """The object that a body is; an empty body is an empty one."""
        try:
            values = json.loads(body or b"{}", parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"body: must be JSON: {error}") from None
        if not isinstance(values, dict):
            raise ValueError(f"body: must be a JSON object, got a {type(values).__name__}")
        return cls(values)

    def missing(self, name: str) -> bool:
        return self._values.get(name) is None

    def flag(self, name: str) -> bool:
        """True or false; false where it is not given."""
        value = self._values.get(name, False)
        return value if isinstance(value, bool) else self._refuse(name, "true or false", value)

    def number(self, name: str, default: float, low: float, high: float) -> float:
        value = self._values.get(name, default)
        if not (_is_number(value) and low <= value <= high):
            self._refuse(name, f"a number from {low:g} to {high:g}", value)
        return float(value)

    def whole(self, name: str, default: int, low: int, high: int) -> int:
        value = self._values.get(name, default)
        if not (_is_number(value) and value == int(value) and low <= value <= high):
            self._refuse(name, f"a whole number from {low} to {high}", value)
        return int(value)

    def numbers(self, name: str, count: int, most: float) -> list[float]:
        """So many numbers, none beyond `most` either way."""
        values = self._values.get(name, [])
        if not isinstance(values, list):
            self._refuse(name, f"a list of {count} numbers", values)
        if len(values) != count:
            raise ValueError(f"{name}: must be a list of {count} numbers, got {len(values)} of them")
        for value in values:
            if not (_is_number(value) and abs(value) <= most):
                self._refuse(name, f"numbers from {-most:g} to {most:g}", value)
        return [float(value) for value in values]

    def pixels(self, name: str, height: int, width: int, channels: int) -> Tensor:
        """uint8 ``[1, C, H, W]`` of base64."""
        value = self._values.get(name)
        if not isinstance(value, str):
            self._refuse(name, "bytes in base64", value)
        try:
            return from_base64(value, height, width, channels)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None

    def fixed(self, count: int, channels: int) -> tuple[list[int], list[list[int]]]:
        """Numbers of pixels below `count`, and the bytes of each: of a list of ``[number, byte, ...]``."""
        found = self._values.get("fixed") or []
        rule = f"a list of [pixel below {count}, {channels} of 0..255]"
        if not isinstance(found, list) or len(found) > count:
            self._refuse("fixed", rule, "another")
        for row in found:
            whole = isinstance(row, list) and len(row) == 1 + channels and all(type(v) is int for v in row)
            if not (whole and 0 <= row[0] < count and all(0 <= v <= 255 for v in row[1:])):
                self._refuse("fixed", rule, row)
        return [row[0] for row in found], [row[1:] for row in found]

    def _refuse(self, name: str, rule: str, value: Any) -> NoReturn:
        shown = repr(value)
        raise ValueError(f"{name}: must be {rule}, got {shown if len(shown) <= 60 else shown[:60] + '...'}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number in JSON")
