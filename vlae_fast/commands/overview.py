"""What `--help` shows: every command with the first line of its docstring, read from the source files; of one command
the page that help.json has.

Nothing is imported for it but what Python itself has, so that it takes no time: vlae_fast_start.py reads this file
without the package, which imports torch.
"""

from __future__ import annotations

import ast
import json
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_ABOUT = (
    "Fast Variational Lossy Autoencoders. Likelihoods are in nats per image and in bits per dimension. "
    "VLAE_FAST_TRACEBACK=1 shows where an error comes from."
)
HELP = "Show this message and exit."
HELP_PAGES = Path(__file__).with_name("help.json")
_OPTIONS = {"--version": "Show the version and exit.", "--help": HELP}
_MOST_LEFT = 30  # columns of the names, which go on a line of their own where they are longer


def overview() -> str:
    """The text, as wide as the terminal; long lines go on below, none is cut."""
    width = _width()
    return "\n".join(
        [
            "Usage: vlae-fast [OPTIONS] COMMAND [ARGS]...",
            "",
            textwrap.fill(_ABOUT, width, initial_indent="  ", subsequent_indent="  "),
            "",
            "Options:",
            *_table(_OPTIONS, width),
            "",
            "Commands:  (vlae-fast COMMAND --help says more)",
            *_table(commands(), width),
            "",
        ]
    )


def commands() -> dict[str, str]:
    """Name -> the first line of the docstring, in alphabetical order."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        for function in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(function, ast.FunctionDef):
                for name in _names(function):
                    found[name] = (ast.get_docstring(function) or "").partition("\n")[0]
    return dict(sorted(found.items()))


def page(name: str) -> str | None:
    """The help of a command, None where help.json has none: by `help_pages`, which reads the command itself."""
    try:
        found = json.loads(HELP_PAGES.read_text(encoding="utf-8")).get(name)
    except (OSError, ValueError):
        return None
    return None if found is None else as_text(found)


def as_text(of: dict[str, Any]) -> str:
    """A page of `help_pages.page_of`, as wide as the terminal."""
    width = _width()
    lines = [
        f"Usage: {of['usage']}",
        "",
        textwrap.fill(of["about"], width, initial_indent="  ", subsequent_indent="  "),
    ]
    for title in ("arguments", "options"):
        if of[title]:
            lines += ["", f"{title.capitalize()}:", *_table(dict(of[title]), width)]
    return "\n".join([*lines, ""])


def _width() -> int:
    return min(shutil.get_terminal_size().columns, 100)


def _names(function: ast.FunctionDef) -> Iterator[str]:
    """The name of a command, from its decorator ``app.command()`` or ``app.command("name")``."""
    for decorator in function.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "app.command":
            yield ast.literal_eval(decorator.args[0]) if decorator.args else function.name.replace("_", "-")


def _table(rows: dict[str, str], width: int) -> list[str]:
    left = min(max(map(len, rows)) + 4, _MOST_LEFT)
    lines = []
    for name, text in rows.items():
        start = f"  {name}"
        if len(start) + 2 > left:
            lines.append(start)
            start = ""
        wrapper = textwrap.TextWrapper(width, start.ljust(left), " " * left, break_on_hyphens=False)
        lines.append(wrapper.fill(text))
    return lines
