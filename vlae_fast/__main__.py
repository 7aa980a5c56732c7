"""The console entry: `vlae-fast` and `python -m vlae_fast`. The commands are in commands/, which needs typer."""

from __future__ import annotations

import os
import sys

from ._extras import MissingExtraError, require


def main() -> None:
    """Runs the command line; without typer, says in one line how to install it."""
    try:
        require("typer")
    except MissingExtraError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    os.environ["MPLBACKEND"] = "agg"  # commands write pictures: no window is made for them
    from .commands import app
    from .commands.threads import keep_to_limits

    keep_to_limits()
    app(prog_name="vlae-fast")


if __name__ == "__main__":
    main()
