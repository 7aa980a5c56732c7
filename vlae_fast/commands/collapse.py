"""`collapse`: the posterior-collapse experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import data
from ..experiments import collapse
from ..visualization import plot_collapse, save_figure
from .app import Binarization, Data, DataDir, Device, Seed, app, device_of, user_errors


@app.command("collapse")
@user_errors
def collapse_command(
    data_name: Data = None,
    data_dir: DataDir = None,
    binarization: Binarization = None,
    windows: Annotated[str, typer.Option(help="Sides of the decoder's window, odd; a model for each")] = ",".join(
        map(str, collapse.WINDOWS)
    ),
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of each model")] = collapse.EPOCHS,
    seconds: Annotated[float | None, typer.Option(help="Limit of the training time of all models together")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    out: Annotated[Path, typer.Option(help="Folder: collapse.png, collapse.csv, a run per model")] = Path(
        "out/collapse"
    ),
) -> None:
    """KL against the decoder's window: nats per image."""
    try:
        sides = [int(side) for side in windows.split(",")]
    except ValueError:
        raise ValueError(f"--windows: must be integers with commas between them, got {windows!r}") from None
    images = data.load(data_name, data_dir, binarization)
    points = collapse.run(
        images, out, windows=sides, epochs=epochs, seconds=seconds, seed=seed, device=device_of(device), say=typer.echo
    )
    title = f"{images.name}: a model for each window, {', '.join(map(str, sides))} pixels wide; test images"
    save_figure(plot_collapse(points, title=title), out / "collapse.png")
    typer.echo(f"{out / 'collapse.png'}, {out / 'collapse.csv'}")
