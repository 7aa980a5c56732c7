"""The help of each command as data: what `--help` shows, and help.json keeps for the script of the package.

To know a command's options takes an import of torch, of two seconds. So `vlae-fast COMMAND --help` shows what help.json
has; `make help-pages` writes it anew, and a test fails where it is not what the commands say.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..visualization.figures import replace_file
from .overview import HELP, HELP_PAGES

_KINDS = {int: "int", float: "number", Path: "path"}
_KINDS_OF_CLICK = {"integer": "int", "float": "number", "path": "path"}  # whose parameters older releases of typer have


def page_of(command: Any, name: str) -> dict[str, Any]:
    """Usage, text, and arguments and options with what they mean, of a command of click."""
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    shown = [p.metavar or p.name.upper() for p in arguments]
    return {
        "usage": " ".join(["vlae-fast", name, "[OPTIONS]", *shown]),
        "about": " ".join((command.help or "").split()),
        "arguments": [[mark, _text(p)] for mark, p in zip(shown, arguments, strict=True)],
        "options": [*([_flags(p), _text(p)] for p in options), ["--help", HELP]],
    }


def _flags(option: Any) -> str:
    flags = ", ".join(option.opts) + "".join(f"/{other}" for other in option.secondary_opts)
    return flags if option.is_flag else f"{flags} <{_kind(option)}>"


def _kind(parameter: Any) -> str:
    if hasattr(parameter, "type"):
        return _KINDS_OF_CLICK.get(parameter.type.name.split()[0], "text")
    return _KINDS.get(parameter.type_descriptor.annotation, "text")


def _text(parameter: Any) -> str:
    """What it means, its default, and the least and the greatest value."""
    notes, default = [], parameter.default
    if parameter.required:
        notes.append("required")
    elif getattr(parameter, "is_flag", False):
        notes += ["default: on"] if parameter.secondary_opts and default else []
    elif default is not None and parameter.show_default:
        notes.append(f"default: {default}")
    bounds = getattr(parameter, "type", parameter)
    low, high = (getattr(bounds, end, None) for end in ("min", "max"))
    if low is not None:
        notes.append(f"at least {low}" if high is None or high > 1 << 32 else f"from {low} to {high}")
    return " ".join([parameter.help or "", f"({'; '.join(notes)})" if notes else ""]).strip()


def all_pages() -> dict[str, dict[str, Any]]:
    """The page of every command, by name."""
    import typer.main

    from . import app

    return {name: page_of(command, name) for name, command in sorted(typer.main.get_group(app).commands.items())}


def write(path: Path = HELP_PAGES) -> None:
    """Writes help.json."""
    text = json.dumps(all_pages(), indent=1, ensure_ascii=False) + "\n"
    replace_file(path, lambda fresh: fresh.write_text(text, encoding="utf-8"))
