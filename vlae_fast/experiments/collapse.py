"""The posterior-collapse experiment: the more a decoder sees of the image, the less it asks of z.

Small models, all of the same depth and width, of as many updates on the same images: only the first convolution's
window differs, the layers after it are 1x1. A few seeds for each window tell what is chance. Source: Chen et al. 2017,
arXiv 1611.02731, section 2; Bowman et al. 2016, arXiv 1511.06349.
"""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .. import checkpoint, training
from ..data import Images
from ..evaluation import evaluate, subset
from ..models.vlae import VLAE
from ..sampling import receptive_field
from ..visualization.grids import replace_file
from .jobs import in_turn_or_parallel

WINDOWS = (3, 5, 7, 11, 17, 27)
SEEN = 80_000  # images in the training of a model, unless its epochs are given
EPOCHS = 24  # the most that come of it, where there are few images
VALID = 2000  # images of the validation that ends an epoch: no choice hangs on it
MODEL: dict[str, Any] = {
    "latent_dim": 16, "hidden_dim": 24, "n_layers": 2, "use_flow": False, "kernel_size": 1, "z_channels": 16,
    "residual": True,
}  # fmt: skip
# While the steps are large the KL swings by half a nat from epoch to epoch, more than neighbouring windows differ by.
TRAINING: dict[str, Any] = {"batch_size": 50, "lr": 3e-3, "lr_schedule": "cosine"}
# steps: updates; nats per image, bits per dimension
COLUMNS = ("window", "seed", "pixels", "steps", "reconstruction", "kl", "bits_per_dim")

Point = dict[str, float]


class Summary(NamedTuple):
    """The models of a window.

    window: columns. pixels: that the decoder sees. seeds: how many models. kl, spread: mean and standard deviation of
    their KL, nats per image; the spread of one model is 0.
    """

    window: int
    pixels: int
    seeds: int
    kl: float
    spread: float


class _Task(NamedTuple):
    """One model of the experiment."""

    window: int
    seed: int
    epochs: int
    model: dict[str, Any]
    settings: dict[str, Any]
    folder: Path
    device: str


def run(
    images: Images,
    out_dir: str | Path,
    *,
    windows: Sequence[int] = WINDOWS,
    seeds: int = 1,
    epochs: int | None = None,
    updates: int | None = None,
    model: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    seed: int = 0,
    jobs: int = 1,
    device: str | torch.device = "cpu",
    progress: bool = True,
    say: Callable[[str], object] = print,
) -> list[Point]:
    """Trains models for each of the windows (the side of the first kernel, odd); evaluates them on the test images.

    Every model is kept in out_dir/window-NN-seed-S, and the figures so far in out_dir/collapse.csv: the same call goes
    on where an interrupted one stopped. All models get as many updates, on the same images.

    Args:
        seeds: models of a window, of seed, seed + 1, ... epochs: of each model, all training images; None: as many as
            make SEEN images, at most EPOCHS, each of an equal share. updates: of each model, in place of epochs;
            at most those of EPOCHS epochs, each of an equal share of the training images.
        model, settings: options of VLAE and of `training.train` in place of MODEL and TRAINING.
        jobs: models trained at once, in processes that share the threads: small models train on two threads little
            faster than on one. say: is given a line of text for each model.

    Returns:
        a point per model, with the keys of COLUMNS, by window, then seed.

    Raises:
        ValueError, TypeError: as in `training.train`.
    """
    _check(images, windows, seeds, epochs, updates, jobs)
    training_options = TRAINING | (settings or {})
    epochs, images = _budget(images, epochs, updates, int(training_options["batch_size"]))
    tasks = [
        _Task(
            window, number, epochs, _likelihood(images) | MODEL | (model or {}) | {"initial_kernel": window},
            training_options, Path(out_dir) / f"window-{window:02d}-seed-{number}", str(device),
        )
        for number in range(seed, seed + seeds)
        for window in windows
    ]  # fmt: skip
    points: list[Point] = []
    try:
        for point in in_turn_or_parallel(_train_one, tasks, jobs, images, progress=progress):
            points.append(point)
            points.sort(key=lambda p: (windows.index(int(p["window"])), p["seed"]))
            _write(points, Path(out_dir) / "collapse.csv")
            say(_line(point, len(points), len(tasks)))
    except KeyboardInterrupt as interrupt:
        done = f"{len(points)} of {len(tasks)} models are done"
        raise training.Interrupted(f"interrupted: {done}; the same command goes on") from interrupt
    return points


def _train_one(task: _Task, images: Images, *, progress: bool = False) -> Point:
    """Trains and evaluates one model, or gives the figures that an earlier call left in its folder."""
    torch.manual_seed(task.seed)
    one = VLAE(images.channels, image_size=images.image_size, **task.model)
    training.train(
        one, images, **task.settings, epochs=task.epochs, seed=task.seed, out_dir=task.folder, resume=True,
        device=task.device, progress=progress,
    )  # fmt: skip
    generation = checkpoint.load(task.folder / "checkpoint").generation
    path = task.folder / "point.json"
    if path.is_file() and (kept := json.loads(path.read_text(encoding="utf-8")))["generation"] == generation:
        return {name: kept[name] for name in COLUMNS}
    found = evaluate(one, images, "test", seed=task.seed)
    steps = task.epochs * math.ceil(len(images.train) / task.settings["batch_size"])
    pixels = receptive_field(one.decoder).pixels
    figures = (task.window, task.seed, pixels, steps, found.reconstruction, found.kl, found.bits_per_dim)
    point = dict(zip(COLUMNS, figures, strict=True))
    text = json.dumps({"generation": generation, **point}) + "\n"
    replace_file(path, lambda fresh: fresh.write_text(text, encoding="utf-8"))
    return point


def summary(points: Sequence[Point]) -> list[Summary]:
    """Mean and spread of each window, in the order of the points (of `run`: those of a window follow each other)."""
    found = []
    for window, group in itertools.groupby(points, key=lambda point: point["window"]):
        rows = list(group)
        kls = [row["kl"] for row in rows]
        spread = statistics.stdev(kls) if len(kls) > 1 else 0.0
        found.append(Summary(int(window), int(rows[0]["pixels"]), len(rows), statistics.fmean(kls), spread))
    return found


def rises(found: Sequence[Summary]) -> Iterator[tuple[Summary, Summary]]:
    """Pairs of neighbouring windows whose mean KL rises with the window, by more than their two spreads together.

    found: of `summary`, in any order.
    """
    ordered = sorted(found, key=lambda one: one.pixels)
    return ((a, b) for a, b in itertools.pairwise(ordered) if b.kl - a.kl > a.spread + b.spread)


def _check(
    images: Images, windows: Sequence[int], seeds: int, epochs: int | None, updates: int | None, jobs: int
) -> None:
    if not windows:
        raise ValueError("windows: must have at least one window, got none")
    most = 2 * min(images.image_size) - 1
    for window in windows:
        if window % 2 == 0 or not 3 <= window <= most:
            raise ValueError(f"windows: must be odd, from 3 to {most} for images of {images.image_size}, got {window}")
    if len(set(windows)) < len(windows):
        raise ValueError(f"windows: must differ, got {', '.join(map(str, windows))}")
    if epochs is not None and updates is not None:
        raise ValueError(f"updates: must be None where epochs is given, {epochs}, got {updates}")
    for name, value in {"seeds": seeds, "epochs": epochs, "updates": updates, "jobs": jobs}.items():
        if value is not None and value < 1:
            raise ValueError(f"{name}: must be at least 1, got {value}")


def _budget(images: Images, epochs: int | None, updates: int | None, batch_size: int) -> tuple[int, Images]:
    """The epochs of each model, and the images of one."""
    count = len(images.train)
    if updates is not None:
        batch = min(batch_size, count)
        epochs = min(EPOCHS, math.ceil(updates / (count // batch)))
        count = batch * min(count // batch, updates // epochs)
    elif epochs is None:
        epochs = min(EPOCHS, math.ceil(SEEN / count))
        count = min(count, SEEN // epochs)
    cut = subset(subset(images, "train", count), "valid", VALID)
    if len(cut.train) < len(images.train):  # a resumed run must have the same
        cut = dataclasses.replace(cut, split=f"{images.split}; {count:,} of the training images")
    return epochs, cut


def _likelihood(images: Images) -> dict[str, Any]:
    return {} if images.levels == 2 else {"likelihood": "logistic_mixture", "levels": images.levels}


def _line(point: Point, done: int, total: int) -> str:
    window, seed, pixels, steps = (int(point[name]) for name in ("window", "seed", "pixels", "steps"))
    elbo = -point["reconstruction"] - point["kl"]
    figures = f"ELBO {elbo:.2f} = -(reconstruction {point['reconstruction']:.2f} + KL {point['kl']:.2f}) nats/image"
    return f"{done}/{total} window {window:2d}x{window}, seed {seed}, {pixels:3d} pixels seen, {steps} steps: {figures}"


def write_means(found: Sequence[Summary], path: Path) -> None:
    """Writes the table of `summary` as CSV: window, pixels, seeds, mean and standard deviation of the KL in nats.

    found: its rows. path: of the file.
    """
    _write([one._asdict() for one in found], path, Summary._fields)


def _write(points: Sequence[Mapping[str, Any]], path: Path, columns: Sequence[str] = COLUMNS) -> None:
    def rows(fresh: Path) -> None:
        with fresh.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, columns, lineterminator="\n")
            table.writeheader()
            table.writerows(points)

    replace_file(path, rows)
