"""`evaluate`: how good a checkpoint is on a data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, cast

import typer
from torch import Tensor

from .. import checkpoint, evaluation, processes, training
from ..data import Images, Split
from ..models.vlae import VLAE, LossTerms
from ..visualization import plot_evaluation, save_figure
from .app import (
    Binarization,
    Data,
    DataDir,
    Device,
    Folder,
    Json,
    Seed,
    app,
    as_json,
    in_processes,
    picture,
    user_errors,
)
from .inputs import BatchSize, SplitName, open_run


@app.command()
@user_errors
@in_processes
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
    keep: Annotated[
        Path | None,
        typer.Option(help="Folder for the NLL of each image: an interrupted command goes on from it"),
    ] = None,
    autocast: Annotated[
        bool,
        typer.Option(help="The NLL's decoder in bfloat16, for a GPU or a CPU with AMX: off by 0.01 nats or so"),
    ] = False,
    json: Json = False,
    seed: Seed = 0,
    device: Device = "auto",
    out: Annotated[Path | None, typer.Option(help="Picture of KL per dimension and of the classes, if wanted")] = None,
) -> None:
    """ELBO, NLL, KL per dimension: nats/image, bits/dim."""
    picture(out)
    if keep is not None and not samples:
        raise ValueError(f"--keep: must not be given without --samples, of which it keeps the NLL, got {keep}")
    if autocast and not samples:
        raise ValueError("--autocast: must not be given without --samples, whose products it is about, got --autocast")
    training.keep_freed_memory()  # the process is ours
    found, images = open_run(folder, device, data_name, data_dir, binarization)
    part, model = cast(Split, split), found.model
    if not model.latent_dim and (samples or out is not None):
        option = "--samples" if samples else "--out"
        raise ValueError(f"{option}: is about z, and the model has none (latent_dim 0); its log p(x) is exact")
    total = len(images.pixels(part))
    images = evaluation.subset(images, part, limit, seed)
    say = _silent if json else typer.echo
    terms = evaluation.per_image(model, images, part, batch_size=batch_size, seed=seed, shared=True)
    figures = evaluation.summary(model, terms, images.dims)
    some = f" ({len(terms.kl):,} of {total:,} images)" if len(terms.kl) < total else ""
    say(f"{images.name} {split}{some}, epoch {found.epoch}: {figures}")
    use = _use(model, images, part, batch_size, seed)
    if use is not None:
        _say_use(*use, say)
    classes = [] if images.labels is None else evaluation.by_class(terms, images.labels[split])
    for row in classes:
        shares = f"reconstruction {row.reconstruction:.2f} + KL {row.kl:.2f} nats/image"
        say(f"class {row.label}: {shares} ({row.images:,} images)")
    if out is not None and use is not None and processes.is_first():
        save_figure(plot_evaluation(use[1], classes, active=use[0]), out)
        say(f"picture: {out}")
    bound = None
    if samples:
        bound = evaluation.importance_bound(
            model,
            images,
            part,
            samples=samples,
            batch_size=batch_size,
            seed=seed,
            progress=processes.is_first(),
            shared=True,
            keep=keep,
            autocast=autocast,
        )._replace(total=total)
        say(str(bound))
    if json:
        as_json({
            "data": images.name, "split": split, "binarization": images.binarization, "total": total,
            "epoch": found.epoch, **figures._asdict(), "elbo_error": _error_of(terms), "latent_dim": model.latent_dim,
            "active_units": None if use is None else use[0], "kl_per_dim": None if use is None else use[1].tolist(),
            "classes": [row._asdict() for row in classes], "nll": None if bound is None else bound._asdict(),
            "picture": out,
        })  # fmt: skip


def _error_of(terms: LossTerms) -> float:
    """The standard error over images of the mean ELBO, in nats."""
    return evaluation.mean_and_error(terms.reconstruction + terms.kl)[1]


def _silent(line: str) -> None:
    """Says nothing: the result is printed as JSON."""


def _use(model: VLAE, images: Images, split: Split, batch_size: int, seed: int) -> tuple[int, Tensor] | None:
    """How many latent dimensions are active, and the KL of each ``[D]``; None without a z."""
    if not model.latent_dim:
        return None
    codes = evaluation.encode(model, images, split, batch_size=batch_size, seed=seed, shared=True)
    return evaluation.active_units(codes.mean, codes.again), codes.kl.mean(0)


def _say_use(active: int, kl: Tensor, say: Callable[[str], object]) -> None:
    """Says which latent dimensions are in use, by the KL of each ``[D]``."""
    say(f"{active} of {len(kl)} latent dimensions active (variance of the mean > {evaluation.ACTIVE:g})")
    top = kl.sort(descending=True)
    shown = ", ".join(
        f"{d}: {nats:.2f}" for nats, d in zip(top.values[:8].tolist(), top.indices.tolist(), strict=False)
    )
    say(f"KL per dimension, nats/image, most used first: {shown}{', ...' if len(kl) > 8 else ''}")
