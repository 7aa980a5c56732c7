"""`sample`: a grid of images from a checkpoint."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Annotated

import torch
import typer

from .. import checkpoint
from ..visualization import save_grid
from .app import Device, Folder, Seed, app, device_of, user_errors


@app.command()
@user_errors
def sample(
    folder: Folder = checkpoint.MNIST,
    n: Annotated[int, typer.Option("-n", min=1, help="Number of images")] = 100,
    temperature: Annotated[
        float, typer.Option(help="Divides the logits, > 0; 1 is the model's own distribution")
    ] = 1.0,
    backend: Annotated[
        str, typer.Option(help="auto or a name in the table of `info`; a named backend runs or raises")
    ] = "auto",
    label: Annotated[
        int | None, typer.Option(min=0, help="Class to draw, of a class-conditional model; default: all in turn")
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    out: Annotated[Path, typer.Option(help="PNG file to write")] = Path("out/samples.png"),
) -> None:
    """Draw images into a PNG grid; shows images/s."""
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature: must be finite and > 0, got {temperature}")
    where = device_of(device)
    model = checkpoint.load(folder, where).model
    generator = torch.Generator(where).manual_seed(seed)
    sampler = model.sampler(backend)
    labels = _labels(n, label, model.n_classes, where)
    start = time.perf_counter()
    z = model.sample_prior(n, generator=generator)
    between = time.perf_counter()
    images = sampler.sample(model.condition(z, labels), generator=generator, temperature=temperature).cpu()
    seconds = time.perf_counter() - between
    save_grid(model.likelihood.clip(images), out, columns=math.ceil(math.sqrt(n)))
    typer.echo(
        f"{n} images: prior {between - start:.3f} s, pixels {seconds:.3f} s ({n / seconds:,.1f} images/s), "
        f"backend {getattr(sampler, 'backend', 'none (one pass)')}, {sampler.steps} steps; {out}"
    )


def _labels(n: int, label: int | None, n_classes: int, where: torch.device) -> torch.Tensor | None:
    if label is not None:
        return torch.full((n,), label, device=where)
    return torch.arange(n, device=where) % n_classes if n_classes else None
