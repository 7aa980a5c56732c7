"""`train`: a model on a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from .. import data, training
from ..models import options
from ..models.presets import PRESETS
from ..models.vlae import VLAE
from ..sampling import receptive_field as receptive_field_of
from .app import (
    Binarization,
    Classes,
    Data,
    DataDir,
    Device,
    ImageSize,
    Seed,
    app,
    device_of,
    in_processes,
    only_classes,
    size_of,
    user_errors,
)
from .declared import Fields, with_fields

ModelOptions = Annotated[
    dict[str, Any],
    Fields(
        options.Options,
        without=options.NOT_CHOSEN,
        chosen_later={"likelihood": "bernoulli for binary data, else categorical"},
        at_least={"n_layers": 1},
    ),
]
Settings = Annotated[dict[str, Any], Fields(training.Settings)]


def _by_preset(context: typer.Context, name: str | None) -> str | None:
    """Makes the preset's values the defaults of this call: an option that is given wins."""
    if name is not None:
        if name not in PRESETS:
            raise typer.BadParameter(f"must be one of {', '.join(PRESETS)}, got {name!r}")
        context.default_map = PRESETS[name].parameters
    return name


Preset = Annotated[
    str | None,
    typer.Option(
        is_eager=True,
        callback=_by_preset,
        help="Model and settings by name, other options given win: "
        + "; ".join(f"{name}: {preset.about}" for name, preset in PRESETS.items()),
        show_default=False,
    ),
]


@app.command()
@user_errors
@in_processes
@with_fields
def train(
    *,
    preset: Preset = None,
    data_name: Data = None,
    data_dir: DataDir = None,
    image_size: ImageSize = None,
    binarization: Binarization = None,
    classes: Classes = None,
    epochs: Annotated[int, typer.Option(min=1, help="Train up to this epoch")] = 20,
    settings: Settings,
    model_options: ModelOptions,
    labels: Annotated[bool, typer.Option("--labels", help="Class-conditional: tell the model the labels")] = False,
    seed: Seed = 0,
    device: Device = "auto",
    out: Annotated[Path, typer.Option(help="Run folder: the checkpoint is OUT/checkpoint")] = Path("out/train"),
    log: Annotated[
        str | None,
        typer.Option(help="Of each epoch: csv (OUT/log.csv), tensorboard (OUT/tensorboard), or csv,tensorboard"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from OUT/checkpoint, if there is one")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start afresh and replace OUT/checkpoint")] = False,
) -> None:
    """Train a model; nats per image, bits per dimension. Data are in memory: no loader workers are needed."""
    if preset is not None:
        typer.echo(f"preset {preset}: {PRESETS[preset].about}")
    logs = [name.strip() for name in log.split(",")] if log else []
    images = only_classes(data.load(data_name, data_dir, binarization, image_size=size_of(image_size)), classes)
    typer.echo(f"{images.name}: {images.split}; binarization: {images.binarization}")
    if labels and not images.n_classes:
        raise ValueError(f"--labels: {images.name} has no labels")
    torch.manual_seed(seed)
    model = _model(images, model_options, n_classes=images.n_classes if labels else 0)
    training.keep_freed_memory()  # the process is ours
    history = training.train(
        model, images, epochs=epochs, seed=seed, out_dir=out, resume=resume, overwrite=overwrite,
        device=device_of(device), log=logs, **settings,
    )  # fmt: skip
    last = history[-1]
    figures = f"validation loss {last['valid_loss']:.2f} nats/image, {last['valid_bits_per_dim']:.4f} bits/dim"
    typer.echo(f"epoch {len(history)}: {figures}; checkpoint: {out / 'checkpoint'}")


def _model(images: data.Images, given: dict[str, Any], *, n_classes: int) -> VLAE:
    """The model for the images; prints its size. A likelihood of None is chosen by the data."""
    likelihood = given["likelihood"] or ("bernoulli" if images.levels == 2 else "categorical")
    model = VLAE(**{
        **given, "likelihood": likelihood, "n_classes": n_classes,
        "input_dim": images.channels, "image_size": images.image_size,
        "levels": 256 if likelihood == "bernoulli" else images.levels,
    })  # fmt: skip
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    typer.echo(
        f"{n_parameters:,} parameters; {likelihood} likelihood; each pixel sees {receptive_field_of(model.decoder)}"
    )
    return model
