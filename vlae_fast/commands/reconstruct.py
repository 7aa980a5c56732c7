"""`reconstruct`, `complete`, `denoise`: images in, images out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import torch
import typer
from torch import Tensor

from .. import checkpoint
from ..data.corruption import corrupt
from ..generation import decompress, inpainting
from ..generation.decompression import shows_means
from ..visualization import plot_table, save_figure
from .app import Binarization, Data, DataDir, Device, Folder, Seed, app, picture, user_errors
from .inputs import Count, Show, SplitName, generator_on, mean_of, open_run, some

PARTS = ("upper", "lower", "left", "right", "centre")
_TRAINED_WITHOUT = (
    "note: this model was trained without noise: its code takes some of the noise for content "
    "(`train --denoise 0.1` makes one that leaves it out)"
)
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
    draws: Annotated[int, typer.Option(min=1, help="Codes z of each image, with an image of each")] = 5,
    show: Show = None,
    seed: Seed = 0,
    device: Device = "auto",
    out: Annotated[Path, typer.Option(help="Picture to write")] = Path("out/reconstructions.png"),
) -> None:
    """Originals beside images drawn given their code z."""
    mean = mean_of(show)
    picture(out)
    found, images = open_run(folder, device, data_name, data_dir, binarization)
    x, labels = some(found.model, images, split, n, seed)
    generator = generator_on(found.model, seed)
    drawn = decompress(found.model, x, draws, mean=mean, labels=labels, generator=generator)
    rows = torch.cat([x[:, None], drawn], 1)
    what, column = ("means E[x | z]", "mean") if shows_means(found.model, mean) else ("draws from p(x | z)", "x | z")
    title = f"{images.name} {split}: x, then {what}, z ~ q(z | x)"
    save_figure(plot_table(rows, title, columns=["x", *[column] * draws]), out)
    typer.echo(f"{len(x)} images, {draws} {what.split()[0]} each: {out}")


@app.command()
@user_errors
def complete(
    folder: Folder = checkpoint.MNIST,
    data_name: Data = None,
    data_dir: DataDir = None,
    binarization: Binarization = None,
    split: SplitName = "test",
    n: Count = 10,
    known: Annotated[str, typer.Option(help=f"Part that is given: {', '.join(PARTS)}")] = "upper",
    rows: Annotated[
        int | None, typer.Option(min=1, help="Its rows; of left and right its columns; default: half the image")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="gibbs: z and the rest in turn, where the known pixels are drawn first; importance: weighted "
            "particles, any part. Default: gibbs where it can"
        ),
    ] = None,
    particles: Annotated[int, typer.Option(min=1, help="Of importance: weighted images to draw from")] = 128,
    draws: Draws = 5,
    rounds: Annotated[
        int | None,
        typer.Option(min=0, help="Times that z is drawn anew to fit the image; default: gibbs 8, importance 4"),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    out: Annotated[Path, typer.Option(help="Picture to write")] = Path("out/completions.png"),
) -> None:
    """Complete images of which a part is known."""
    picture(out)
    found, images = open_run(folder, device, data_name, data_dir, binarization)
    mask, said = known_part(images.image_size, known, rows)
    x, labels = some(found.model, images, split, n, seed)
    model, mask, generator = found.model, mask.to(x.device), generator_on(found.model, seed)
    if method is None:
        method = "gibbs" if known == "upper" or not model.decoder.autoregressive else "importance"
    result: Tensor | inpainting.Completions = inpainting.complete(
        model, x, mask, method=cast(Any, method), particles=particles, draws=draws, rounds=rounds, labels=labels,
        generator=generator, progress=True,
    )  # fmt: skip
    drawn, weights = result if isinstance(result, Tensor) else result.draw(draws, generator), ""
    if not isinstance(result, Tensor):
        worth = f"{result.effective().mean():.1f} of {particles} particles effective (more: --particles)"
        weights = f"; log p(given) {result.log_known.mean():.2f} nats/image, {worth}"
    given = torch.where(mask, x, 0.5)
    title = f"{images.name} {split}: x, {said.removeprefix('their ')} given, draws of the rest ({method})"
    columns = ["x", "given", *["drawn"] * draws]
    save_figure(plot_table(torch.cat([x[:, None], given[:, None], drawn], 1), title, columns=columns), out)
    typer.echo(f"{len(x)} images completed from {said}, {draws} draws each{weights}: {out}")


def known_part(size: tuple[int, int], known: str, rows: int | None) -> tuple[Tensor, str]:
    """The mask ``[H, W]`` of a part of the image, and the part in words."""
    if known not in PARTS:
        raise ValueError(f"--known: must be one of {', '.join(PARTS)}, got {known!r}")
    axis = 1 if known in ("left", "right") else 0
    side = min(size) if known == "centre" else size[axis]
    count = side // 2 if rows is None else rows
    if not 0 < count < side:
        raise ValueError(f"--rows: must be from 1 to {side - 1}, got {count}")
    if known == "centre":
        low = [(s - count) // 2 for s in size]
        mask = torch.zeros(size, dtype=torch.bool)
        mask[low[0] : low[0] + count, low[1] : low[1] + count] = True
        return mask, f"their middle {count} x {count} pixels"
    at = torch.arange(side)
    line = at < count if known in ("upper", "left") else at >= side - count
    mask = (line[None] if axis else line[:, None]).expand(size)
    return mask, f"their {'first' if known in ('upper', 'left') else 'last'} {count} {'columns' if axis else 'rows'}"


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
    picture(out)
    found, images = open_run(folder, device, data_name, data_dir, binarization)
    if found.model.latent_dim and not found.training.get("denoise"):
        typer.echo(_TRAINED_WITHOUT, err=True)
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
