"""`detect`: images that the model finds unusual."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import typer
from torch import Tensor

from .. import checkpoint, data
from ..data import SPLITS, Images, Split
from ..evaluation import anomaly_scores, drawn_rows, most_anomalous, subset
from ..evaluation import detect as detect_anomalies
from ..visualization import plot_anomalies, plot_detection, save_figure
from ..visualization.figures import replace_file
from .app import (
    Binarization,
    Classes,
    Data,
    DataDir,
    Device,
    Folder,
    Seed,
    app,
    classes_of,
    only_classes,
    picture,
    user_errors,
)
from .inputs import BatchSize, check_fits, open_run

_COLUMNS = ("class", "index", "score", "flagged")


class Group(NamedTuple):
    """The normal images or the anomalous ones: what they are called, and where each test image is in its split."""

    name: str
    images: Images
    rows: Tensor


@app.command()
@user_errors
def detect(
    folder: Folder = checkpoint.MNIST,
    data_name: Data = None,
    data_dir: DataDir = None,
    binarization: Binarization = None,
    classes: Classes = None,
    against: Annotated[str | None, typer.Option(help="Name of the data set that is anomalous")] = None,
    against_dir: Annotated[Path | None, typer.Option(help="Its folder")] = None,
    anomalous: Annotated[
        str | None,
        typer.Option(
            "--anomalous",
            "--held-out",
            help="Or: the class, or classes as in 4,9, that is anomalous, best one that the model was not trained on",
        ),
    ] = None,
    normal: Annotated[
        str | None,
        typer.Option(help="Or: the class that is normal, best the only one of the training (train --classes)"),
    ] = None,
    quantile: Annotated[float, typer.Option(help="Of the validation scores: above it an image is anomalous")] = 0.95,
    samples: Annotated[int, typer.Option(min=1, help="Importance samples of a score; 1: the negative ELBO")] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many images of each split, at random")] = None,
    top: Annotated[
        int, typer.Option(min=0, help="Images with the highest scores, drawn and listed beside OUT; 0: none")
    ] = 20,
    batch_size: BatchSize = 256,
    seed: Seed = 0,
    device: Device = "auto",
    out: Annotated[Path, typer.Option(help="Picture to write; OUT_top.png and OUT_top.csv are beside it")] = Path(
        "out/detection.png"
    ),
) -> None:
    """Find anomalous images; threshold, ROC, AUC."""
    other = against is not None or against_dir is not None
    if other + (anomalous is not None) + (normal is not None) != 1:
        raise ValueError("detect: must be given one of --against (and --against-dir), --anomalous and --normal")
    picture(out)
    found, images = open_run(folder, device, data_name, data_dir, binarization)
    images = only_classes(images, classes)
    if other:
        if against is None and against_dir is not None:
            size, channels = images.image_size, images.channels
            unlike = data.own_images(against_dir, binarization, image_size=size, channels=channels)
        else:
            unlike = data.load(against, against_dir, binarization)
        check_fits(found.model, unlike)
        groups = [_group(each.name, each, range(len(each.test)), limit, seed) for each in (images, unlike)]
    else:
        groups = _by_class(images, normal, anomalous, limit, seed)

    def scores(of: Images, split: Split) -> Tensor:
        return anomaly_scores(
            found.model, of, split, samples=samples, batch_size=batch_size, seed=seed, progress=samples > 1
        )

    usual, strange = groups
    tested = [scores(group.images, "test") for group in groups]
    result = detect_anomalies(scores(usual.images, "valid"), tested[0], tested[1], quantile)
    save_figure(plot_detection(result, usual.name, strange.name), out)
    typer.echo(f"{usual.name} against {strange.name}: {result}; {out}")
    if top:
        _show_top(groups, torch.cat(tested), result.threshold, top, out)


def _group(name: str, images: Images, rows: Sequence[int], limit: int | None, seed: int) -> Group:
    """At most `limit` images of each split."""
    for split in SPLITS:
        chosen = drawn_rows(len(images.pixels(split)), limit, seed)
        images = subset(images, split, limit, seed)
    return Group(name, images, torch.as_tensor(rows, device="cpu")[chosen])  # of the last split, test


def _by_class(images: Images, normal: str | None, anomalous: str | None, limit: int | None, seed: int) -> list[Group]:
    """The normal group and the anomalous one: of these options one is given, and the other classes are the other."""
    option, text = ("--normal", normal) if normal is not None else ("--anomalous", anomalous or "")
    classes = classes_of(option, text)
    try:
        parts = images.only(classes), images.without(classes)
    except ValueError as error:
        raise ValueError(f"{option}: {str(error).removeprefix('classes: ')}") from None
    named = f"class {text}" if len(classes) == 1 else f"classes {text}"
    names = (f"{images.name} {named}", "other classes") if normal is not None else (named, images.name)
    inside = torch.isin(_labels(images), torch.tensor(classes, device="cpu"))
    groups = [
        _group(name, part, mask.nonzero()[:, 0].tolist(), limit, seed)
        for name, part, mask in zip(names, parts, (inside, ~inside), strict=True)
    ]
    return groups if normal is not None else groups[::-1]


def _labels(images: Images) -> Tensor:
    assert images.labels is not None
    return images.labels["test"]


def _show_top(groups: list[Group], scores: Tensor, threshold: float, n: int, out: Path) -> None:
    """Draws the images with the highest scores, writes them to a table and prints its first rows."""
    images = torch.cat([_grey(group.images) for group in groups])
    names = [name for group in groups for name in _names(group)]
    rows = torch.cat([group.rows for group in groups]).tolist()
    found = most_anomalous(scores, threshold, n=n)
    table = [(names[a.image], rows[a.image], f"{a.score:.3f}", "yes" if a.flagged else "no") for a in found]
    picture, sheet = (out.with_name(f"{out.stem}_top{ending}") for ending in (out.suffix, ".csv"))
    title = f"the {len(found)} most anomalous of {len(scores):,} test images; threshold {threshold:.1f} nats"
    save_figure(plot_anomalies(images, scores, names, n=n, title=title), picture)

    def write(fresh: Path) -> None:
        with fresh.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([_COLUMNS, *table])

    replace_file(sheet, write)
    typer.echo(
        "highest scores, nats/image: " + "; ".join(f"{name} [{row}] {score}" for name, row, score, _ in table[:5])
    )
    typer.echo(f"{len(table)} images: {picture}, {sheet}")


def _grey(images: Images) -> Tensor:
    """The test images as they are in the file, 0 to 1."""
    return images.test.float() / (1 if images.binarization == "fixed" else 255)


def _names(group: Group) -> list[str]:
    """The class of each test image, or the data set's name where it has none."""
    labels = group.images.labels
    return [f"class {label}" for label in labels["test"].tolist()] if labels else [group.images.name] * len(group.rows)
