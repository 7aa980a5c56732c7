"""Reads and checks config.json of a checkpoint: a hostile number becomes an error before it becomes a model."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..models import options
from .parts import NAMES

FORMAT, VERSION = "vlae_fast.checkpoint", 1
_MAX_CONFIG_BYTES = 16 << 20


def read(path: Path) -> dict[str, Any]:
    """config.json with the type, length and bounds of every value checked; ValueError names the first that is wrong."""
    with path.open("rb") as file:
        text = file.read(_MAX_CONFIG_BYTES + 1)
    if len(text) > _MAX_CONFIG_BYTES:
        raise ValueError(f"{path}: must be at most {_MAX_CONFIG_BYTES:,} bytes, got more")
    try:
        config = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        found = config.get("format") if isinstance(config, dict) else type(config).__name__
        raise ValueError(f"{path}: format must be {FORMAT!r}, got {found!r:.60}")
    if config.get("version") != VERSION:
        raise ValueError(f"{path}: version must be {VERSION}, got {config.get('version')!r:.60}")
    check(str(path), config)
    return config


def check(where: str, config: Mapping[str, Any]) -> None:
    """Raises ValueError, in the name of `where`, at the first value that is wrong."""
    for key, kind in {"model": dict, "training": dict, "epoch": int, "history": list}.items():
        if not isinstance(config.get(key), kind) or isinstance(config.get(key), bool):
            raise ValueError(f"{where}: {key} must be a JSON {kind.__name__}, got {config.get(key)!r:.60}")
    for key, value in config["model"].items():
        if rule := broken_rule(key, value):
            raise ValueError(f"{where}: model: {key} must be {rule}, got {value!r:.60}")
    for key, value in parts.items() if isinstance(parts := config.get("parts", {}), dict) else [("parts", parts)]:
        if key not in NAMES or not isinstance(value, str):
            raise ValueError(f"{where}: parts must name classes of {', '.join(NAMES)}, got {key!r:.60}: {value!r:.60}")
    for key, value in config["training"].items():
        if not (value is None or isinstance(value, str | bool) or _is_number(value)):
            rule = "a string, a finite number, true, false or null"
            raise ValueError(f"{where}: training: {key!s:.60} must be {rule}, got {value!r:.60}")
    history, epoch = config["history"], config["epoch"]
    if len(history) != epoch:
        raise ValueError(f"{where}: history must have one entry per epoch ({epoch}), got {len(history)}")
    for number, row in enumerate(history, start=1):
        if not isinstance(row, dict) or not all(map(_is_number, row.values())):
            raise ValueError(f"{where}: history: entry {number} must be a dict of finite numbers, got {row!r:.60}")
        if row.get("epoch") != number:
            raise ValueError(f"{where}: history: entry {number} must have epoch {number}, got {row.get('epoch')!r}")


def broken_rule(key: str, value: object) -> str | None:
    """The rule of an option of a VLAE in words, where `value` breaks it; unknown keys are left to the constructor.

    Bounds keep a hostile number from becoming a million layers; real shapes are checked against the tensor file.
    """
    option = options.known().get(key)
    return None if option is None else option.broken_in_json(value)


def _is_number(value: object) -> bool:
    """True for a finite number, bools apart; JSON's integers may be too large to be converted to a float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
