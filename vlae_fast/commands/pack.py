"""`pack`: a trained run as a small model, such as those that ship with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from .. import checkpoint, evaluation
from ..checkpoint.shipped import read_figures
from ..data import Images, Split
from ..training import packing
from .app import Binarization, Data, DataDir, app, user_errors
from .inputs import BatchSize, SplitName, check_fits, images_for, own_images_of


@app.command()
@user_errors
def pack(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or checkpoint folder")],
    out: Annotated[Path, typer.Argument(help="Folder to write, e.g. vlae_fast/pretrained/omniglot")],
    name: Annotated[str | None, typer.Option(help="Name in the card; default: that of OUT")] = None,
    command: Annotated[
        str | None, typer.Option(help="Command that trained it, for the card; default: as the run's settings say")
    ] = None,
    figures: Annotated[
        Path | None, typer.Option(help="What `evaluate --json` printed of the packed model, for the card and `models`")
    ] = None,
    data_name: Data = None,
    data_dir: DataDir = None,
    binarization: Binarization = None,
    split: SplitName = "valid",
    limit: Annotated[int | None, typer.Option(min=2, help="Only so many images, drawn at random")] = None,
    batch_size: BatchSize = 256,
) -> None:
    """Write a run's weights in float16, with card and figures."""
    found = checkpoint.load(run)
    known = None if figures is None else read_figures(figures)
    if data_name is None and data_dir is None:
        images = own_images_of(found.training, binarization)
    else:
        like = tuple(found.model.config["image_size"]), found.model.config["input_dim"]
        images = images_for(found.training, data_name, data_dir, binarization, like)
    if images is not None:
        check_fits(found.model, images, str(found.training.get("data") or ""))
    size = packing.pack(found, out, name=name or out.resolve().name, command=command, figures=known)
    typer.echo(f"{out}: {size:,} bytes, epoch {found.epoch}")
    if images is None:
        typer.echo("the loss by rounding is not known: give --data or --data-dir")
        return
    _say_loss(found, checkpoint.load(out), evaluation.subset(images, cast(Split, split), limit), split, batch_size)


def _say_loss(
    run: checkpoint.Checkpoint, packed: checkpoint.Checkpoint, images: Images, split: str, batch_size: int
) -> None:
    """The ELBO of both by the same draws, and the mean difference of an image with its standard error."""
    terms = [
        evaluation.per_image(found.model, images, cast(Split, split), batch_size=batch_size) for found in (run, packed)
    ]
    before, after = (of.reconstruction + of.kl for of in terms)
    lost, error = evaluation.mean_and_error(after - before)
    typer.echo(
        f"ELBO {-before.mean():.3f} -> {-after.mean():.3f} nats/image by float16, {lost:+.4f} +- {error:.4f} lost "
        f"({len(before):,} {split} images of {images.name}, the same draws)"
    )
