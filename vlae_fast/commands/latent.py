"""`traverse`, `interpolate`, `embed`, `heatmap`: looks into the latent space."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import torch
import typer
from torch import Tensor

from .. import checkpoint
from ..data import Images, Split
from ..generation import latent_space
from ..generation.decompression import shows_means
from ..models.vlae import VLAE
from ..visualization import plot_bits_heatmap, plot_embedding, plot_table, save_figure
from .app import Binarization, Data, DataDir, Device, Folder, Seed, app, picture, user_errors
from .inputs import (
    Count,
    Show,
    SplitName,
    encoded,
    generator_on,
    labels_for,
    mean_of,
    numbers,
    open_run,
    picked,
    some,
)  # fmt: skip

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
    dim: Annotated[str | None, typer.Option(help="Or: their numbers, e.g. 3,7")] = None,
    image: Annotated[
        int | None, typer.Option(min=0, help="Image to start at, by its number in the split; default: a random one")
    ] = None,
    steps: Annotated[int, typer.Option(min=2, help="Values of each")] = 11,
    span: Annotated[float, typer.Option(min=0, help="Standard deviations of the codes to either side")] = 2.5,
    show: Show = None,
    seed: Seed = 0,
    device: Device = "auto",
    out: Annotated[Path, typer.Option(help="Picture to write")] = Path("out/traversal.png"),
) -> None:
    """Vary one latent dimension at a time."""
    mean = mean_of(show)
    picture(out)
    found, images = open_run(folder, device, data_name, data_dir, binarization)
    model = found.model
    codes, _ = encoded(model, images, split, _STATISTICS, seed)
    if dim is None:
        used = codes.kl.mean(0).argsort(descending=True)[:dims]
    else:
        used = _dimensions(dim, codes.z.shape[1])
    centre, spread = codes.z.mean(0)[used], codes.z.std(0)[used]
    values = centre[:, None] + spread[:, None] * torch.linspace(-span, span, steps, dtype=torch.float64)
    x, labels = some(model, images, split, 1, seed) if image is None else _one(model, images, split, image, seed)
    z = latent_space.code(model, x, labels)
    drawn = latent_space.traverse(model, z, used, values, labels, mean=mean, generator=generator_on(model, seed))
    names = [f"z{d}: {codes.kl[:, d].mean():.2f} nats" for d in used.tolist()]
    at = [f"{s:+.1f}" for s in torch.linspace(-span, span, steps).tolist()]
    of = "a random image" if image is None else f"{images.name} {split} {image}"
    title = f"{_shown(model, mean)} around {of}, a dimension a row, in standard deviations; KL in nats per image"
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
    label: Annotated[
        str | None,
        typer.Option(
            help="Class of both images of a pair, or classes from,to, e.g. 3,8. Default: any; of a class-conditional "
            "model pairs of one class, class after class"
        ),
    ] = None,
    steps: Annotated[int, typer.Option(min=2, help="Images from one to the other")] = 9,
    show: Show = None,
    seed: Seed = 0,
    device: Device = "auto",
    out: Annotated[Path, typer.Option(help="Picture to write")] = Path("out/interpolation.png"),
) -> None:
    """Draw what lies between two images' codes."""
    mean = mean_of(show)
    picture(out)
    found, images = open_run(folder, device, data_name, data_dir, binarization)
    model = found.model
    first, last = pairs_of(images, split, n, label, one_class=bool(model.n_classes), seed=seed)
    (x, a), (y, b) = (picked(model, images, split, rows, seed) for rows in (first, last))
    starts, stops = labels_for(model, images, a), labels_for(model, images, b)
    drawn = latent_space.interpolate(
        model, latent_space.code(model, x, starts), latent_space.code(model, y, stops), steps, starts,
        stop_labels=stops, mean=mean, generator=generator_on(model, seed),
    )  # fmt: skip
    rows = torch.cat([x[:, None], drawn, y[:, None]], 1)
    between = [f"{100 * i / (steps - 1):.0f} %" for i in range(steps)]
    classes = [] if a is None or b is None else list(zip(a.tolist(), b.tolist(), strict=True))
    names = [str(start) if start == stop else f"{start} ... {stop}" for start, stop in classes]
    title = f"{images.name} {split}: {_shown(model, mean)} between two codes"
    if model.n_classes:
        title += ", the class told" if all(a == b for a, b in classes) else ", the class told going over from x to x'"
    save_figure(plot_table(rows, title, rows=names, columns=["x", *between, "x'"]), out)
    typer.echo(f"{len(x)} pairs, {steps} images each: {out}")


@app.command()
@user_errors
def embed(
    folder: Folder = checkpoint.MNIST,
    data_name: Data = None,
    data_dir: DataDir = None,
    binarization: Binarization = None,
    split: SplitName = "test",
    n: Count = 2000,
    show: Show = None,
    perplexity: Annotated[float, typer.Option(help="t-SNE's number of neighbours, > 0")] = 30.0,
    seed: Seed = 0,
    device: Device = "auto",
    out: Annotated[Path, typer.Option(help="Picture to write")] = Path("out/embedding.png"),
) -> None:
    """A map of the codes: t-SNE, or the plane of a 2-D z."""
    mean = mean_of(show)
    picture(out)
    found, images = open_run(folder, device, data_name, data_dir, binarization)
    codes, classes = encoded(found.model, images, split, n, seed)
    mu = (codes.mean + codes.again) / 2
    flat = mu.shape[1] == 2
    generator = generator_on(found.model, seed)
    drawn = torch.zeros(1, dtype=torch.long, device=generator.device) if found.model.n_classes else None  # as class 0
    plane = latent_space.plane(found.model, mu, labels=drawn, mean=mean, generator=generator) if flat else None
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
    picture(out)
    found, images = open_run(folder, device, data_name, data_dir, binarization)
    codes, classes = encoded(found.model, images, split, n, seed)
    save_figure(plot_bits_heatmap(codes.mu, codes.logvar, labels=classes), out)
    typer.echo(f"{len(codes.mu)} images, {codes.mu.shape[1]} dimensions: {out}")


def pairs_of(
    images: Images, split: str, n: int, label: str | None, *, one_class: bool, seed: int
) -> tuple[Tensor, Tensor]:
    """Rows of a split, ``[n]`` at most, where n walks start and where they end; no image is in two pairs.

    label: as of `interpolate`. one_class: without it, pairs of one class, a pair of each class in turn.
    """
    order = torch.randperm(
        len(images.pixels(cast(Split, split))), generator=torch.Generator().manual_seed(seed), device="cpu"
    )
    if label is None and not one_class:
        n = min(n, len(order) // 2)
        if not n:
            raise ValueError(f"{split}: must have at least 2 images to go between, got {len(order)}")
        return order[:n], order[n : 2 * n]
    if images.labels is None:
        raise ValueError(f"--label: {images.name} has no labels")
    of = images.labels[split][order]
    if label is None:
        classes = [c for c, images_of in zip(*of.unique(return_counts=True), strict=True) if images_of > 1]
        chains = [order[of == c] for c in classes]
        if not chains:
            raise ValueError(f"{split}: must have at least 2 images of one class to go between, got none")
        pairs = [chain[2 * i : 2 * i + 2] for i in range(n) for chain in chains if 2 * i + 1 < len(chain)][:n]
        return torch.stack(pairs).unbind(1)  # type: ignore[return-value]
    classes = numbers("--label", label, "a class, or two with a comma between them")
    if len(classes) > 2:
        raise ValueError(f"--label: must be a class, or two with a comma between them, got {label!r}")
    first, last = (order[of == c] for c in (classes[0], classes[-1]))
    if classes[0] == classes[-1]:
        first, last = first[::2], first[1::2]
    n = min(n, len(first), len(last))
    if not n:
        raise ValueError(f"--label: {images.name} {split} must have images of those classes, got {label!r}")
    return first[:n], last[:n]


def _shown(model: VLAE, mean: bool | None) -> str:
    return "means" if shows_means(model, mean) else "draws with the same noise"


def _dimensions(text: str, size: int) -> Tensor:
    rule = f"numbers of latent dimensions with commas, 0 to {size - 1}"
    found = numbers("--dim", text, rule)
    if not all(0 <= d < size for d in found):
        raise ValueError(f"--dim: must be {rule}, got {text!r}")
    return torch.tensor(found)


def _one(model: VLAE, images: Images, split: str, row: int, seed: int) -> tuple[Tensor, Tensor | None]:
    """The image of this number in a split, and the label that the model takes."""
    if row >= (count := len(images.pixels(cast(Split, split)))):
        raise ValueError(f"--image: must be below {count:,}, the images of {images.name} {split}, got {row}")
    x, labels = picked(model, images, split, torch.tensor([row]), seed)
    return x, labels_for(model, images, labels)
