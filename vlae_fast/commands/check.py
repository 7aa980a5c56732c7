"""`check`: the self-test of an installation."""

from __future__ import annotations

import typer

from ..experiments import self_check
from .app import app


@app.command()
def check() -> None:
    """Self-test, in seconds: backends, sampler, flow, training, checkpoint; exit code 1 where one fails."""
    if self_check.run(typer.echo):
        raise typer.Exit(1)
