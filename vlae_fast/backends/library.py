"""The compiled libraries: where they lie, how they are loaded, what their build reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

_PACKAGE = Path(__file__).parents[1]  # setup.py puts the libraries and its report there
_REPORT = _PACKAGE / "_build_report.json"


def library_file(part: str) -> Path:
    """The file of the ``cpu`` or ``cuda`` library, which need not be there."""
    return _PACKAGE / f"_native_{part}.so"


def build_report() -> dict[str, Any]:
    """The build: ``{"cpu": {"built": bool, "why_not": str, "isas": [...], "compiler": str}}``; {} if unknown."""
    try:
        report = json.loads(_REPORT.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return report if isinstance(report, dict) else {}


def load(library: Path, ops: Any, probe: str) -> str | None:
    """Loads a library, which must define the op ``probe``; returns why that failed, or None."""
    if hasattr(ops, probe):  # a second registration of the same ops would end the process
        return None
    if not library.is_file():
        part = library.stem.removeprefix("_native_")
        reason = build_report().get(part, {}).get("why_not") or "vlae_fast was not installed by pip"
        return f"not built because {reason}"
    try:
        torch.ops.load_library(library)
    except Exception as error:  # OSError from the loader, RuntimeError from registration
        return f"failed to load because {error}"
    if not hasattr(ops, probe):
        return f"failed to load because {library.name} is stale: it has no op `{probe}`; reinstall"
    return None
