"""`reconstruct`, `complete`, `denoise`: images in, images out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from .. import checkpoint
from ..data.corruption import corrupt
from ..generation import inpainting
from ..visualization import decompress, plot_table, save_figure
from .app import Binarization, Data, DataDir, Device, Folder, Seed, app, user_errors
from .inputs import Count, SplitName, generator_on, open_run, some

Draws = Annotated[int, typer.Option(min=1, help="Draws per image")]


@app.command()
@user_errors
def reconstruct(
    folder: Folder = checkpoint.MNIST,
    data_name: Data = None,
    data_dir: DataDir = None,
    binarization: Binarization = None,
    split: SplitName = "test",
    n: Count = 10,
    draws: Draws = 5,
    seed: Seed = 0,
    device: Device = "auto",
    out: Annotated[Path, typer.Option(help="Picture to write")] = Path("out/reconstructions.png"),
) -> None:
    """Originals beside images drawn given their code z."""
    found, images = open_run(folder, device, data_name, data_dir, binarization)
    x, labels = some(found.model, images, split, n, seed)
    drawn = decompress(found.model, x, draws, labels=labels, generator=generator_on(found.model, seed))
    rows = torch.cat([x[:, None], drawn], 1)
    title = f"{images.name} {split}: x, then draws from p(x | z), z ~ q(z | x)"
    save_figure(plot_table(rows, title, columns=["x", *["x | z"] * draws]), out)
    typer.echo(f"{len(x)} images, {draws} draws each: {out}")


@app.command()
@user_errors
def complete(
    folder: Folder = checkpoint.MNIST,
    data_name: Data = None,
    data_dir: DataDir = None,
    binarization: Binarization = None,
    split: SplitName = "test",
    n: Count = 10,
    rows: Annotated[int | None, typer.Option(min=1, help="Rows that are known; default: the upper half")] = None,
    draws: Draws = 5,
    rounds: Annotated[int, typer.Option(min=0, help="Times that z is drawn anew to fit the image")] = 8,
    seed: Seed = 0,
    device: Device = "auto",
    out: Annotated[Path, typer.Option(help="Picture to write")] = Path("out/completions.png"),
) -> None:
    """Complete images of which the upper rows are known."""
    found, images = open_run(folder, device, data_name, data_dir, binarization)
    known = images.image_size[0] // 2 if rows is None else rows
    x, labels = some(found.model, images, split, n, seed)
    drawn = inpainting.complete(
        found.model, x, known, draws=draws, rounds=rounds, labels=labels,
        generator=generator_on(found.model, seed), progress=True,
    )  # fmt: skip
    given = x.clone()
    given[:, :, known:] = 0.5
    title = f"{images.name} {split}: x, the {known} rows that are given, draws of the rest"
    columns = ["x", "given", *["drawn"] * draws]
    save_figure(plot_table(torch.cat([x[:, None], given[:, None], drawn], 1), title, columns=columns), out)
    typer.echo(f"{len(x)} images completed from their first {known} rows, {draws} draws each: {out}")


@app.command()
@user_errors
def denoise(
    folder: Folder = checkpoint.MNIST,
    data_name: Data = None,
    data_dir: DataDir = None,
    binarization: Binarization = None,
    split: SplitName = "test",
    n: Count = 10,
    noise: Annotated[
        float, typer.Option(min=0, help="Probability that a binary pixel flips, or standard deviation of the noise")
    ] = 0.1,
    draws: Annotated[int, typer.Option(min=1, help="Draws that are averaged")] = 16,
    seed: Seed = 0,
    device: Device = "auto",
    out: Annotated[Path, typer.Option(help="Picture to write")] = Path("out/denoised.png"),
) -> None:
    """Take noise out of images; shows the error left."""
    found, images = open_run(folder, device, data_name, data_dir, binarization)
    x, labels = some(found.model, images, split, n, seed)
    generator = generator_on(found.model, seed)
    noisy = corrupt(x, noise, levels=images.levels, generator=generator)
    drawn = inpainting.denoise(found.model, noisy, draws=draws, labels=labels, generator=generator)
    mean = drawn.mean(1)
    before, after = ((image - x).square().mean().item() for image in (noisy, mean))
    title = f"{images.name} {split}: {noise:g} of noise"
    columns = ["x", "noisy", "one draw", "mean"]
    save_figure(plot_table(torch.stack([x, noisy, drawn[:, 0], mean], 1), title, columns=columns), out)
    typer.echo(f"{len(x)} images: mean squared error {before:.4f} with noise, {after:.4f} after; {out}")
