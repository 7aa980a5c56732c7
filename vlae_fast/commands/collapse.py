"""`collapse`: the posterior-collapse experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from .. import data
from ..experiments import collapse
from ..visualization import plot_collapse, save_figure
from .app import Binarization, Data, DataDir, Device, ImageSize, Seed, app, device_of, size_of, user_errors


@app.command("collapse")
@user_errors
def collapse_command(
    data_name: Data = None,
    data_dir: DataDir = None,
    image_size: ImageSize = None,
    binarization: Binarization = None,
    windows: Annotated[str, typer.Option(help="Sides of the decoder's window, odd; a model for each")] = ",".join(
        map(str, collapse.WINDOWS)
    ),
    seeds: Annotated[int, typer.Option(min=1, help="Models for each window, of --seed and the numbers after it")] = 1,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=f"Epochs of each model  [default: those of {collapse.SEEN:,} images, at most {collapse.EPOCHS}]",
        ),
    ] = None,
    updates: Annotated[
        int | None,
        typer.Option(min=1, help="At most so many updates of each model, in place of --epochs"),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Models trained at once  [default: as many as threads; GPU: 1]"),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    out: Annotated[
        Path, typer.Option(help="Folder: collapse.png, collapse.csv, means.csv of several seeds, a folder per model")
    ] = Path("out/collapse"),
) -> None:
    """KL against the decoder's window: nats per image; all models get as many updates."""
    try:
        sides = [int(side) for side in windows.split(",")]
    except ValueError:
        raise ValueError(f"--windows: must be integers with commas between them, got {windows!r}") from None
    images, on = data.load(data_name, data_dir, binarization, image_size=size_of(image_size)), device_of(device)
    if jobs is None:
        jobs = torch.get_num_threads() if torch.device(on).type == "cpu" else 1
    points = collapse.run(
        images, out, windows=sides, seeds=seeds, epochs=epochs, updates=updates, seed=seed, jobs=jobs, device=on,
        say=typer.echo,
    )  # fmt: skip
    found = collapse.summary(points)
    for one in found if seeds > 1 else ():
        kl = f"KL {one.kl:.2f} +- {one.spread:.2f} nats/image, {seeds} seeds"
        typer.echo(f"window {one.window:2d}x{one.window}: {kl}")
    for a, b in collapse.rises(found) if seeds > 1 else ():
        typer.echo(f"the KL rises from window {a.window} to {b.window} by more than the spread of the seeds")
    models = "a model" if seeds == 1 else f"mean and standard deviation of {seeds} models"
    title = f"{images.name}: {models} for each window, {', '.join(map(str, sides))} pixels wide; test images"
    save_figure(plot_collapse(points, title=title), out / "collapse.png")
    if seeds > 1:
        collapse.write_means(found, out / "means.csv")
    of_means = f", {out / 'means.csv'}" if seeds > 1 else ""
    typer.echo(f"{out / 'collapse.png'}, {out / 'collapse.csv'}{of_means}")
