"""`train`: a model on a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from .. import checkpoint, data, training
from ..models import options
from ..models.growth import check_growth
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
from .inputs import check_fits, images_for

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
Init = Annotated[
    str | None,
    typer.Option(
        metavar="CHECKPOINT",
        help="Start from the weights of a checkpoint, or of a model that ships, by name; optimizer, step and schedule "
        "are new. Model and, where none is named, data are the checkpoint's: of a preset the rest counts. A larger "
        "--hidden-dim, --encoder-hidden, --n-layers or --flow-steps grows it: it computes the same at first",
    ),
]


@app.command()
@user_errors
@in_processes
@with_fields
def train(
    *,
    context: typer.Context,
    preset: Preset = None,
    init: Init = None,
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
    begun = _begun(init, out, resume=resume, overwrite=overwrite)
    images = only_classes(_images(begun, data_name, data_dir, binarization, size_of(image_size)), classes)
    typer.echo(f"{images.name}: {images.split}; binarization: {images.binarization}")
    if labels and not images.n_classes:
        raise ValueError(f"--labels: {images.name} has no labels")
    torch.manual_seed(seed)
    if begun is None:
        model = _model(images, model_options, n_classes=images.n_classes if labels else 0)
    else:
        given = {name: value for name, value in model_options.items() if _is_given(context, name)}
        model = _model_from(
            begun, images, given, labels=labels and _is_given(context, "labels"), own=out / "checkpoint"
        )
    _say_size(model)
    training.keep_freed_memory()  # the process is ours
    history = training.train(
        model, images, epochs=epochs, seed=seed, out_dir=out, init=init, resume=resume,
        overwrite=overwrite, device=device_of(device), log=logs, **settings,
    )  # fmt: skip
    last = history[-1]
    figures = f"validation loss {last['valid_loss']:.2f} nats/image, {last['valid_bits_per_dim']:.4f} bits/dim"
    typer.echo(f"epoch {len(history)}: {figures}; checkpoint: {out / 'checkpoint'}")


def _begun(init: str | None, out: Path, *, resume: bool, overwrite: bool) -> checkpoint.Checkpoint | None:
    """What a run starts from with --init; of a run that goes on its own checkpoint, which needs the other no more."""
    if init is None:
        return None
    own = out / "checkpoint"
    if resume and own.is_dir():
        return checkpoint.load(own)
    if overwrite and Path(init).resolve() in (out.resolve(), own.resolve()):
        raise ValueError(f"--init: must not be the run that --overwrite replaces, {out}, got {init}")
    return checkpoint.load(init)


def _is_given(context: typer.Context, name: str) -> bool:
    """True of an option that stands on the command line, not in a preset."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _images(
    begun: checkpoint.Checkpoint | None,
    name: str | None,
    folder: Path | None,
    binarization: str | None,
    size: tuple[int, int] | None,
) -> data.Images:
    """The images to train on; those of a run from a checkpoint fit its model."""
    if begun is None:
        return data.load(name, folder, binarization, image_size=size)
    like, channels = tuple(begun.model.config["image_size"]), begun.model.config["input_dim"]
    if size not in (None, like):
        raise ValueError(f"--image-size: must be that of the checkpoint of --init, {like}, got {size}")
    images = images_for(begun.training, name, folder, binarization, (like, channels))
    check_fits(begun.model, images, str(begun.training.get("data") or ""))
    return images


def _model(images: data.Images, given: dict[str, Any], *, n_classes: int) -> VLAE:
    """The model for the images. A likelihood of None is chosen by the data."""
    likelihood = given["likelihood"] or ("bernoulli" if images.levels == 2 else "categorical")
    return VLAE(**{
        **given, "likelihood": likelihood, "n_classes": n_classes,
        "input_dim": images.channels, "image_size": images.image_size,
        "levels": 256 if likelihood == "bernoulli" else images.levels,
    })  # fmt: skip


def _model_from(
    begun: checkpoint.Checkpoint, images: data.Images, given: dict[str, Any], *, labels: bool, own: Path
) -> VLAE:
    """The model of a checkpoint, or a new one for the run to grow it into where options that are given differ."""
    theirs = begun.model.n_classes
    if labels and not theirs:
        raise ValueError("--labels: must not be given where the checkpoint of --init is of a model without classes")
    if theirs and not 0 < images.n_classes <= theirs:
        rule = f"must have labels, of no more classes than the {theirs} of the checkpoint of --init"
        raise ValueError(f"data: {rule}, got {images.n_classes}")
    before = begun.model.config
    if "encoder_norm" in given:  # which weight_norm, its older name, would contradict
        given = {"weight_norm": False, **given}
    wanted = options.chosen(**before | given)
    check_growth(options.Options(**before), wanted)
    after = wanted.config()
    changed = [f"{name} {before[name]} -> {value}" for name, value in after.items() if value != before[name]]
    where = "goes on from" if begun.folder == own else "starts from"
    typer.echo(f"{where} {begun.folder}, epoch {begun.epoch}" + "".join(f"; {change}" for change in changed))
    return VLAE(**after) if changed else begun.model


def _say_size(model: VLAE) -> None:
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    kind, seen = model.likelihood.kind, receptive_field_of(model.decoder)
    typer.echo(f"{n_parameters:,} parameters; {kind} likelihood; each pixel sees {seen}")
