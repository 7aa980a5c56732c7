"""`evaluate`: how good a checkpoint is on a data set."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import checkpoint, data
from ..evaluation import evaluate as evaluate_model
from .app import Binarization, Data, DataDir, Device, Folder, Seed, app, device_of, user_errors


@app.command()
@user_errors
def evaluate(
    folder: Folder,
    data_name: Data = None,
    data_dir: DataDir = None,
    binarization: Binarization = None,
    split: Annotated[str, typer.Option(help="train, valid or test")] = "test",
    batch_size: Annotated[int, typer.Option(min=1, help="Images per forward pass")] = 256,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """ELBO, reconstruction, KL: nats/image, bits/dim."""
    found = checkpoint.load(folder, device_of(device))
    images = data.load(data_name, data_dir, binarization)
    size = tuple(found.model.config["image_size"])
    if images.image_size != size:
        raise ValueError(f"data: images must be of the model's size {size}, got {images.image_size}")
    result = evaluate_model(found.model, images, split, batch_size=batch_size, seed=seed)  # type: ignore[arg-type]
    typer.echo(f"{images.name} {split}, epoch {found.epoch}: {result}")
