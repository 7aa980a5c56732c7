"""config.json of a checkpoint: what it may say, so that a hostile number becomes an error before it becomes a model."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .parts import NAMES

FORMAT, VERSION = "vlae_fast.checkpoint", 1
_MAX_CONFIG_BYTES = 16 << 20
# Bounds that keep a hostile number from becoming a million layers; real shapes are checked against the tensor file.
_INTEGERS = dict.fromkeys(("input_dim", "latent_dim", "hidden_dim", "flow_hidden"), (1, 1 << 16))
_INTEGERS |= {"z_channels": (0, 1 << 16), "kernel_size": (1, 63), "initial_kernel": (1, 63)}
_INTEGERS |= {"n_layers": (0, 1 << 10), "flow_steps": (1, 1 << 8), "flow_layers": (1, 1 << 6)}
_INTEGERS |= {"n_classes": (0, 1 << 16), "encoder_hidden": (2, 1 << 16)}
_INTEGERS |= {"receptive_field": (3, 1 << 12), "n_pointwise": (0, 1 << 10)}
_INTEGERS |= {"levels": (2, 1 << 16), "components": (1, 1 << 10)}
_OPTIONAL = ("latent_map", "encoder_hidden", "receptive_field")  # None is a value too
_SIDE = (1, 1 << 12)  # of image_size and latent_map
_FLAGS = ("use_flow", "residual", "weight_norm", "tied")
_STRINGS = ("backend", "encoder", "posterior", "flow_transform", "decoder", "likelihood")


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
        if isinstance(value, dict | list):
            raise ValueError(f"{where}: training: {key:.60} must be a string, a number, true, false or null")
    history, epoch = config["history"], config["epoch"]
    if len(history) != epoch:
        raise ValueError(f"{where}: history must have one entry per epoch ({epoch}), got {len(history)}")
    for number, row in enumerate(history, start=1):
        if not isinstance(row, dict) or not all(map(_is_number, row.values())):
            raise ValueError(f"{where}: history: entry {number} must be a dict of finite numbers, got {row!r:.60}")
        if row.get("epoch") != number:
            raise ValueError(f"{where}: history: entry {number} must have epoch {number}, got {row.get('epoch')!r}")


def broken_rule(key: str, value: object) -> str | None:
    """What an argument of VLAE must be, where `value` is not; unknown keys are left to the constructor."""
    if key in _OPTIONAL and value is None:
        return None
    if key in _INTEGERS:
        low, high = _INTEGERS[key]
        return None if _is_integer(value, low, high) else f"an integer from {low} to {high:,}"
    if key in ("image_size", "latent_map"):
        fits = isinstance(value, list | tuple) and len(value) == 2 and all(_is_integer(v, *_SIDE) for v in value)
        return None if fits else f"two integers from {_SIDE[0]} to {_SIDE[1]:,}"
    if key in _FLAGS:
        return None if isinstance(value, bool) else "true or false"
    return "a string" if key in _STRINGS and not isinstance(value, str) else None


def _is_integer(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_number(value: object) -> bool:
    """Finite and not a bool; compared, not converted, since JSON's integers may be too large for a float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
