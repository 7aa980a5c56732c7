"""`card`: the model card of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import checkpoint
from ..checkpoint.folder import CARD
from ..checkpoint.hub import write_text
from .app import app, user_errors


@app.command()
@user_errors
def card(
    folder: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="Checkpoint folder, or the folder of a run")],
    name: Annotated[str, typer.Option(help="Repository of the Hub that the code in it names")] = "user/model",
    license: Annotated[str | None, typer.Option(help="An identifier such as mit; default: none is claimed")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a README.md that is there")] = False,
) -> None:
    """Write README.md, the model card, beside a checkpoint's files."""
    found = checkpoint.load(folder)
    path = found.folder / CARD
    if path.exists() and not overwrite:
        raise ValueError(f"--overwrite: must be given where {path} is there already")
    write_text(path, checkpoint.card_of(found, name=name, license=license))
    typer.echo(f"{path}: {', '.join(sorted(p.name for p in found.folder.iterdir()))} are a repository of the Hub")
