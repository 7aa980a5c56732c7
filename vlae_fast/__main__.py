"""The console entry: `vlae-fast` and `python -m vlae_fast`. The commands are in commands/, which needs typer."""

from __future__ import annotations

import sys

from ._extras import MissingExtraError, require


def main() -> None:
    """Runs the command line; without typer, says in one line how to install it."""
    try:
        require("typer")
    except MissingExtraError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    from .commands import app

    app(prog_name="vlae-fast")


if __name__ == "__main__":
    main()
