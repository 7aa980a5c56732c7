"""`curves`: how training went."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import checkpoint
from ..visualization import plot_curves, save_figure
from .app import Folder, app, picture, user_errors


@app.command()
@user_errors
def curves(
    folder: Folder = checkpoint.MNIST,
    out: Annotated[Path, typer.Option(help="Picture to write")] = Path("out/curves.png"),
) -> None:
    """Training curves of a checkpoint: nats per image."""
    picture(out)
    found = checkpoint.load(folder)
    data = found.training.get("data", "")
    save_figure(plot_curves(found.history, title=f"{data}, {found.epoch} epochs".lstrip(", ")), out)
    typer.echo(f"{found.epoch} epochs: {out}")
