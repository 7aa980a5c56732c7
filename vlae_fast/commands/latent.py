"""`traverse`, `interpolate`, `embed`, `heatmap`: looks into the latent space."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from .. import checkpoint
from ..generation import latent_space
from ..visualization import plot_bits_heatmap, plot_embedding, plot_table, save_figure
from .app import Binarization, Data, DataDir, Device, Folder, Seed, app, user_errors
from .inputs import Count, SplitName, encoded, generator_on, open_run, some

_STATISTICS = 1000  # images that say how far a dimension varies


@app.command()
@user_errors
def traverse(
    folder: Folder = checkpoint.MNIST,
    data_name: Data = None,
    data_dir: DataDir = None,
    binarization: Binarization = None,
    split: SplitName = "test",
    dims: Annotated[int, typer.Option(min=1, help="Latent dimensions, most used first")] = 10,
    steps: Annotated[int, typer.Option(min=2, help="Values of each")] = 11,
    span: Annotated[float, typer.Option(min=0, help="Standard deviations of the codes to either side")] = 2.5,
    seed: Seed = 0,
    device: Device = "auto",
    out: Annotated[Path, typer.Option(help="Picture to write")] = Path("out/traversal.png"),
) -> None:
    """Vary one latent dimension at a time."""
    found, images = open_run(folder, device, data_name, data_dir, binarization)
    codes, _ = encoded(found.model, images, split, _STATISTICS, seed)
    used = codes.kl.mean(0).argsort(descending=True)[:dims]
    centre, spread = codes.z.mean(0)[used], codes.z.std(0)[used]
    values = centre[:, None] + spread[:, None] * torch.linspace(-span, span, steps, dtype=torch.float64)
    x, labels = some(found.model, images, split, 1, seed)
    z = latent_space.code(found.model, x, labels)
    drawn = latent_space.traverse(found.model, z, used, values, labels, generator=generator_on(found.model, seed))
    names = [f"z{d}: {codes.kl[:, d].mean():.2f} nats" for d in used.tolist()]
    at = [f"{s:+.1f}" for s in torch.linspace(-span, span, steps).tolist()]
    title = "one dimension at a time, in standard deviations of the codes; KL in nats per image"
    save_figure(plot_table(drawn, title, rows=names, columns=at), out)
    typer.echo(f"{len(used)} dimensions, {steps} values each: {out}")


@app.command()
@user_errors
def interpolate(
    folder: Folder = checkpoint.MNIST,
    data_name: Data = None,
    data_dir: DataDir = None,
    binarization: Binarization = None,
    split: SplitName = "test",
    n: Annotated[int, typer.Option("-n", min=1, help="Pairs of images, drawn at random from the split")] = 8,
    steps: Annotated[int, typer.Option(min=2, help="Images from one to the other")] = 9,
    seed: Seed = 0,
    device: Device = "auto",
    out: Annotated[Path, typer.Option(help="Picture to write")] = Path("out/interpolation.png"),
) -> None:
    """Draw what lies between two images' codes."""
    found, images = open_run(folder, device, data_name, data_dir, binarization)
    x, labels = some(found.model, images, split, 2 * n, seed)
    if len(x) < 2:
        raise ValueError(f"{split}: must have at least 2 images to go between, got {len(x)}")
    pairs = len(x) // 2
    z = latent_space.code(found.model, x, labels)
    first = None if labels is None else labels[:pairs]
    drawn = latent_space.interpolate(
        found.model, z[:pairs], z[pairs : 2 * pairs], steps, first, generator=generator_on(found.model, seed)
    )
    rows = torch.cat([x[:pairs, None], drawn, x[pairs : 2 * pairs, None]], 1)
    between = [f"{100 * i / (steps - 1):.0f} %" for i in range(steps)]
    title = f"{images.name} {split}: between two codes, the same noise in each row"
    save_figure(plot_table(rows, title, columns=["x", *between, "x'"]), out)
    typer.echo(f"{pairs} pairs, {steps} images each: {out}")


@app.command()
@user_errors
def embed(
    folder: Folder = checkpoint.MNIST,
    data_name: Data = None,
    data_dir: DataDir = None,
    binarization: Binarization = None,
    split: SplitName = "test",
    n: Count = 2000,
    perplexity: Annotated[float, typer.Option(help="t-SNE's number of neighbours, > 0")] = 30.0,
    seed: Seed = 0,
    device: Device = "auto",
    out: Annotated[Path, typer.Option(help="Picture to write")] = Path("out/embedding.png"),
) -> None:
    """A map of the codes: t-SNE, or the plane of a 2-D z."""
    found, images = open_run(folder, device, data_name, data_dir, binarization)
    codes, classes = encoded(found.model, images, split, n, seed)
    mu = (codes.mean + codes.again) / 2
    flat = mu.shape[1] == 2
    generator = generator_on(found.model, seed)
    drawn = torch.zeros(1, dtype=torch.long, device=generator.device) if found.model.n_classes else None  # as class 0
    plane = latent_space.plane(found.model, mu, labels=drawn, generator=generator) if flat else None
    points = mu if flat else latent_space.embed(mu, seed=seed, perplexity=perplexity)
    what = "posterior means" if flat else f"t-SNE of posterior means, {mu.shape[1]} dimensions"
    save_figure(
        plot_embedding(points, classes, title=f"{images.name} {split}: {what}, {len(mu):,} images", plane=plane), out
    )
    typer.echo(f"{len(mu):,} codes: {out}")


@app.command()
@user_errors
def heatmap(
    folder: Folder = checkpoint.MNIST,
    data_name: Data = None,
    data_dir: DataDir = None,
    binarization: Binarization = None,
    split: SplitName = "test",
    n: Annotated[int, typer.Option("-n", min=2, help="Number of images, drawn at random from the split")] = 64,
    seed: Seed = 0,
    device: Device = "auto",
    out: Annotated[Path, typer.Option(help="Picture to write")] = Path("out/heatmap.png"),
) -> None:
    """Bits that each latent dimension carries."""
    found, images = open_run(folder, device, data_name, data_dir, binarization)
    codes, classes = encoded(found.model, images, split, n, seed)
    save_figure(plot_bits_heatmap(codes.mu, codes.logvar, labels=classes), out)
    typer.echo(f"{len(codes.mu)} images, {codes.mu.shape[1]} dimensions: {out}")
