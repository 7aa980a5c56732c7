"""`sample`: a grid of images from a checkpoint, or files of as many as are wanted."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from .. import checkpoint, processes
from ..generation.decompression import MEAN_OF, mean_images, shows_means
from ..generation.shards import PER_SHARD, draw_shards
from ..models.vlae import VLAE
from ..visualization import plot_table, save_figure, save_grid
from .app import Device, Folder, Json, Seed, app, as_json, device_of, in_processes, picture, user_errors
from .inputs import Show, mean_of

_COLUMNS = 60  # names of more classes than that do not fit above their columns


@app.command()
@user_errors
@in_processes
def sample(
    folder: Folder = checkpoint.MNIST,
    n: Annotated[
        int, typer.Option("-n", min=1, help="Number of images; a class-conditional model fills the last row")
    ] = 100,
    temperature: Annotated[
        float, typer.Option(help="Divides the logits, > 0; 1 is the model's own distribution")
    ] = 1.0,
    backend: Annotated[
        str, typer.Option(help="auto or a name in the table of `info`; a named backend runs or raises")
    ] = "auto",
    label: Annotated[
        int | None, typer.Option(min=0, help="Class to draw, of a class-conditional model; default: a column of each")
    ] = None,
    show: Show = None,
    json: Json = False,
    seed: Seed = 0,
    device: Device = "auto",
    out: Annotated[
        Path,
        typer.Option(
            help="PNG file to write; or a folder, for images in .npz files, which several processes share and which an "
            "interrupted command goes on with"
        ),
    ] = Path("out/samples.png"),
    per_shard: Annotated[int, typer.Option(min=1, help="Images in a file of a folder")] = PER_SHARD,
) -> None:
    """Draw images into a PNG grid, or into files of a folder; shows images/s."""
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"--temperature: must be finite and > 0, got {temperature}")
    if show == "mean" and temperature != 1:
        raise ValueError(f"--temperature: must be 1 with --show mean, got {temperature}")
    mean, where = mean_of(show), device_of(device)
    many = not out.suffix or out.is_dir()
    if not many:
        if processes.count() > 1:
            raise ValueError(
                f"--out: must be a folder in {processes.count()} processes, which share its files, got {out}"
            )
        picture(out)
    model = checkpoint.load(folder, where).model
    _check_label(label, model.n_classes)
    if many:
        means = shows_means(model, mean) and temperature == 1
        _draw_many(model, out, n, seed, per_shard, label, temperature, means, backend, json)
        return
    generator = torch.Generator(where).manual_seed(seed)
    columns = model.n_classes if label is None else 0
    if not 0 < columns <= _COLUMNS:  # a grid of pixels, not a figure
        picture(out, ".png")
    sampler = model.sampler(backend)
    n = n if not columns else math.ceil(n / columns) * columns
    labels = _labels(n, label, model.n_classes, where)
    start = time.perf_counter()
    z = model.sample_prior(n, generator=generator)
    between = time.perf_counter()
    given, means = model.condition(z, labels), shows_means(model, mean) and temperature == 1
    if means:
        images = mean_images(model, given, sampler=sampler, generator=generator).cpu()
    else:
        images = sampler.sample(given, generator=generator, temperature=temperature).cpu()
    seconds = time.perf_counter() - between
    _save(model.likelihood.clip(images), out, columns)
    of_means = f" (means of {MEAN_OF} draws)" if model.decoder.autoregressive else " (means)"
    backend = getattr(sampler, "backend", "none (one pass)")
    if json:
        as_json({
            "images": n, "means": means, "temperature": temperature, "prior_seconds": between - start,
            "pixel_seconds": seconds, "images_per_second": n / seconds, "backend": backend, "steps": sampler.steps,
            "out": out,
        })  # fmt: skip
        return
    typer.echo(
        f"{n} images{of_means if means else ''}: prior {between - start:.3f} s, pixels {seconds:.3f} s "
        f"({n / seconds:,.1f} images/s), backend {backend}, {sampler.steps} steps; {out}"
    )


def _draw_many(
    model: VLAE,
    out: Path,
    n: int,
    seed: int,
    per_shard: int,
    label: int | None,
    temperature: float,
    means: bool,
    backend: str,
    json: bool,
) -> None:
    done = draw_shards(
        model, out, n, seed=seed, per_shard=per_shard, label=label, temperature=temperature, mean=means,
        backend=backend, progress=True,
    )  # fmt: skip
    speed, count = done.drawn / done.seconds, processes.count()
    if json:
        as_json(done._asdict() | {"images_per_second": speed, "processes": count, "means": means, "out": out})
        return
    before = f", {n - done.drawn} of them before" if done.drawn < n else ""
    by = f"; {count} processes" if count > 1 else ""
    typer.echo(f"{n} images in {done.shards} files{before}: {done.seconds:.3f} s ({speed:,.1f} images/s){by}; {out}")


def _save(images: Tensor, out: Path, columns: int) -> None:
    """A column of each class with its name, or a square grid."""
    if 0 < columns <= _COLUMNS:
        rows = images.unflatten(0, (-1, columns))
        save_figure(plot_table(rows, "a column of each class", columns=list(map(str, range(columns)))), out)
    else:
        save_grid(images, out, columns=columns or math.ceil(math.sqrt(len(images))))


def _check_label(label: int | None, n_classes: int) -> None:
    if label is not None and not n_classes:
        raise ValueError(f"--label: must not be given, for the model was trained without labels, got {label}")
    if label is not None and label >= n_classes:
        raise ValueError(f"--label: must be a class from 0 to {n_classes - 1}, got {label}")


def _labels(n: int, label: int | None, n_classes: int, where: torch.device) -> Tensor | None:
    if label is not None:
        return torch.full((n,), label, device=where)
    return torch.arange(n, device=where) % n_classes if n_classes else None
