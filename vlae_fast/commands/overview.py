"""What `vlae-fast --help` shows: every command with the first line of its docstring, read from the source files.

Nothing is imported for it but what Python itself has, so that it takes no time: vlae_fast_start.py reads this file
without the package, which imports torch.
"""

from __future__ import annotations

import ast
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path

_ABOUT = (
    "Fast Variational Lossy Autoencoders. Likelihoods are in nats per image and in bits per dimension. "
    "VLAE_FAST_TRACEBACK=1 shows where an error comes from."
)
_OPTIONS = {"--version": "Show the version and exit.", "--help": "Show this message and exit."}


def overview() -> str:
    """The text, as wide as the terminal; long lines go on below, none is cut."""
    width = min(shutil.get_terminal_size().columns, 100)
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


def _names(function: ast.FunctionDef) -> Iterator[str]:
    """The name of a command, from its decorator ``app.command()`` or ``app.command("name")``."""
    for decorator in function.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "app.command":
            yield ast.literal_eval(decorator.args[0]) if decorator.args else function.name.replace("_", "-")


def _table(rows: dict[str, str], width: int) -> list[str]:
    left = max(map(len, rows)) + 4
    return [
        textwrap.fill(text, width, initial_indent=f"  {name}".ljust(left), subsequent_indent=" " * left)
        for name, text in rows.items()
    ]
