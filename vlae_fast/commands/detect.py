"""`detect`: images that the model finds unusual."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from torch import Tensor

from .. import checkpoint, data
from ..data import SPLITS, Images, Split
from ..evaluation import anomaly_scores, subset
from ..evaluation import detect as detect_anomalies
from ..visualization import plot_detection, save_figure
from .app import Binarization, Data, DataDir, Device, Folder, Seed, app, user_errors
from .inputs import BatchSize, check_fits, open_run


@app.command()
@user_errors
def detect(
    folder: Folder = checkpoint.MNIST,
    data_name: Data = None,
    data_dir: DataDir = None,
    binarization: Binarization = None,
    against: Annotated[str | None, typer.Option(help="Name of the data set that is anomalous")] = None,
    against_dir: Annotated[Path | None, typer.Option(help="Its folder")] = None,
    held_out: Annotated[
        int | None, typer.Option(help="Or: the class that is anomalous, best one that the model was not trained on")
    ] = None,
    quantile: Annotated[float, typer.Option(help="Of the validation scores: above it an image is anomalous")] = 0.95,
    samples: Annotated[int, typer.Option(min=1, help="Importance samples of a score; 1: the negative ELBO")] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many images of each split, at random")] = None,
    batch_size: BatchSize = 256,
    seed: Seed = 0,
    device: Device = "auto",
    out: Annotated[Path, typer.Option(help="Picture to write")] = Path("out/detection.png"),
) -> None:
    """Find anomalous images; threshold, ROC, AUC."""
    other = against is not None or against_dir is not None
    if other == (held_out is not None):
        raise ValueError("detect: must be given either --against (and --against-dir) or --held-out, one of them")
    found, images = open_run(folder, device, data_name, data_dir, binarization)

    def scores(of: Images, split: Split) -> Tensor:
        return anomaly_scores(
            found.model, of, split, samples=samples, batch_size=batch_size, seed=seed, progress=samples > 1
        )

    for split in SPLITS:
        images = subset(images, split, limit, seed)
    valid, test = scores(images, "valid"), scores(images, "test")
    if held_out is None:
        strange = subset(data.load(against, against_dir, binarization), "test", limit, seed)
        check_fits(found.model, strange)
        normal, anomalous, name = test, scores(strange, "test"), strange.name
    else:
        is_out = {split: labels == held_out for split, labels in _labels(images).items()}
        valid, normal, anomalous = valid[~is_out["valid"]], test[~is_out["test"]], test[is_out["test"]]
        name = f"class {held_out}"
        if not len(anomalous):
            raise ValueError(f"--held-out: must be a class of {images.name}, got {held_out}")
    result = detect_anomalies(valid, normal, anomalous, quantile)
    save_figure(plot_detection(result, images.name, name), out)
    typer.echo(f"{images.name} against {name}: {result}; {out}")


def _labels(images: Images) -> dict[str, Tensor]:
    if images.labels is None:
        raise ValueError(f"--held-out: needs labels, and {images.name} has none")
    return images.labels
