"""`evaluate`: how good a checkpoint is on a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer
from torch import Tensor

from .. import checkpoint, evaluation
from ..data import Split
from ..visualization import plot_evaluation, save_figure
from .app import Binarization, Data, DataDir, Device, Folder, Seed, app, user_errors
from .inputs import BatchSize, SplitName, open_run


@app.command()
@user_errors
def evaluate(
    folder: Folder = checkpoint.MNIST,
    data_name: Data = None,
    data_dir: DataDir = None,
    binarization: Binarization = None,
    split: SplitName = "test",
    samples: Annotated[
        int, typer.Option(min=0, help="Importance samples of the NLL, e.g. 512 (papers' number; slow); 0: no NLL")
    ] = 0,
    limit: Annotated[int | None, typer.Option(min=2, help="Only so many images of the split, drawn at random")] = None,
    batch_size: BatchSize = 256,
    seed: Seed = 0,
    device: Device = "auto",
    out: Annotated[Path | None, typer.Option(help="Picture of KL per dimension and of the classes, if wanted")] = None,
) -> None:
    """ELBO, NLL, KL per dimension: nats/image, bits/dim."""
    found, images = open_run(folder, device, data_name, data_dir, binarization)
    part, model = cast(Split, split), found.model
    if not model.latent_dim and (samples or out is not None):
        option = "--samples" if samples else "--out"
        raise ValueError(f"{option}: is about z, and the model has none (latent_dim 0); its log p(x) is exact")
    total = len(images.pixels(part))
    images = evaluation.subset(images, part, limit, seed)
    terms = evaluation.per_image(model, images, part, batch_size=batch_size, seed=seed)
    some = f" ({len(terms.kl):,} of {total:,} images)" if len(terms.kl) < total else ""
    typer.echo(f"{images.name} {split}{some}, epoch {found.epoch}: {evaluation.summary(model, terms, images.dims)}")
    codes = evaluation.encode(model, images, part, batch_size=batch_size, seed=seed) if model.latent_dim else None
    if codes is not None:
        active, kl = evaluation.active_units(codes.mean, codes.again), codes.kl.mean(0)
        _say_use(active, kl)
    classes = [] if images.labels is None else evaluation.by_class(terms, images.labels[split])
    for row in classes:
        figures = f"reconstruction {row.reconstruction:.2f} + KL {row.kl:.2f} nats/image"
        typer.echo(f"class {row.label}: {figures} ({row.images:,} images)")
    if out is not None and codes is not None:
        save_figure(plot_evaluation(kl, classes, active=active), out)
        typer.echo(f"picture: {out}")
    if samples:
        bound = evaluation.importance_bound(
            model, images, part, samples=samples, batch_size=batch_size, seed=seed, progress=True
        )
        typer.echo(str(bound._replace(total=total)))


def _say_use(active: int, kl: Tensor) -> None:
    """Prints which latent dimensions are in use, by the KL of each ``[D]``."""
    typer.echo(f"{active} of {len(kl)} latent dimensions active (variance of the mean > {evaluation.ACTIVE:g})")
    top = kl.sort(descending=True)
    shown = ", ".join(
        f"{d}: {nats:.2f}" for nats, d in zip(top.values[:8].tolist(), top.indices.tolist(), strict=False)
    )
    typer.echo(f"KL per dimension, nats/image, most used first: {shown}{', ...' if len(kl) > 8 else ''}")
