"""`consolidate`: a checkpoint of the shards of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import checkpoint
from ..checkpoint.shards import consolidate as put_together
from .app import app, user_errors


@app.command()
@user_errors
def consolidate(
    shards: Annotated[Path, typer.Argument(help="Folder of the .safetensors files of a model in shards")],
    like: Annotated[Path, typer.Option(help="Checkpoint of a model made of the same options")],
    out: Annotated[Path, typer.Option(help="Checkpoint folder to write")],
) -> None:
    """Put the shards of a model that FSDP trained together, into a checkpoint."""
    checkpoint.check_replaceable(out)
    found = put_together(shards, like, out)
    n_parameters = sum(parameter.numel() for parameter in found.model.parameters())
    typer.echo(f"{n_parameters:,} parameters: {out}")
