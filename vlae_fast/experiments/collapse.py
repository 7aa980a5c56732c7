"""The posterior-collapse experiment: the more a decoder sees of the image, the less it asks of z.

One small model per window, all of the same depth and width: only the first convolution's window differs, the layers
after it are 1x1. Source: Chen et al. 2017, arXiv 1611.02731, section 2; Bowman et al. 2016, arXiv 1511.06349.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from .. import checkpoint, training
from ..data import Images
from ..evaluation import evaluate
from ..models.vlae import VLAE
from ..sampling import receptive_field
from ..visualization.grids import replace_file

WINDOWS = (3, 5, 7, 11, 17, 27)
EPOCHS = 12
MODEL: dict[str, Any] = {
    "latent_dim": 16, "hidden_dim": 24, "n_layers": 2, "use_flow": False, "kernel_size": 1, "z_channels": 16,
    "residual": True,
}  # fmt: skip
# While the steps are large the KL swings by half a nat from epoch to epoch, more than neighbouring windows differ by.
TRAINING: dict[str, Any] = {"batch_size": 25, "lr": 3e-3, "lr_decay": 0.75}
COLUMNS = ("window", "pixels", "epochs", "reconstruction", "kl", "bits_per_dim")  # nats per image, bits per dimension

Point = dict[str, float]


def run(
    images: Images,
    out_dir: str | Path,
    *,
    windows: Sequence[int] = WINDOWS,
    epochs: int = EPOCHS,
    seconds: float | None = None,
    model: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: bool = True,
    say: Callable[[str], object] = print,
) -> list[Point]:
    """Trains a model for each of the windows (the side of the first kernel, odd); evaluates it on the test images.

    Every model is kept in out_dir/window-NN, and the figures so far in out_dir/collapse.csv: the same call goes on
    where an interrupted one stopped. seconds: of training, shared equally by the models; no epoch starts that would
    likely end later. epochs: of each. model, settings: options of VLAE and of `training.train` in place of MODEL and
    TRAINING. say: is given a line of text for each model.

    Returns:
        a point per model, with the keys of COLUMNS.

    Raises:
        ValueError, TypeError: as in `training.train`.
    """
    _check(images, windows, seconds)
    points: list[Point] = []
    for window in windows:
        torch.manual_seed(seed)
        options = _likelihood(images) | MODEL | (model or {}) | {"initial_kernel": window}
        one = VLAE(images.channels, image_size=images.image_size, **options)
        folder = Path(out_dir) / f"window-{window:02d}"
        limit = None if seconds is None else _left(seconds / len(windows), folder)
        try:
            history = training.train(
                one, images, **TRAINING | (settings or {}), epochs=epochs, seed=seed, out_dir=folder, resume=True,
                device=device, time_limit=limit, progress=progress,
            )  # fmt: skip
        except training.Interrupted as interrupt:
            done = f"{len(points)} of {len(windows)} models are done"
            raise training.Interrupted(f"interrupted: {done}; the same command goes on") from interrupt
        found = evaluate(one, images, "test", seed=seed)
        pixels = receptive_field(one.decoder).pixels
        figures = (window, pixels, len(history), found.reconstruction, found.kl, found.bits_per_dim)
        points.append(dict(zip(COLUMNS, figures, strict=True)))
        _write(points, Path(out_dir) / "collapse.csv")
        say(f"window {window:2d}x{window}, {pixels:3d} pixels seen, {len(history)} epochs: {found}")
    return points


def _check(images: Images, windows: Sequence[int], seconds: float | None) -> None:
    if not windows:
        raise ValueError("windows: must have at least one window, got none")
    most = 2 * min(images.image_size) - 1
    for window in windows:
        if window % 2 == 0 or not 3 <= window <= most:
            raise ValueError(f"windows: must be odd, from 3 to {most} for images of {images.image_size}, got {window}")
    if seconds is not None and not seconds > 0:
        raise ValueError(f"seconds: must be > 0, got {seconds}")


def _likelihood(images: Images) -> dict[str, Any]:
    return {} if images.levels == 2 else {"likelihood": "logistic_mixture", "levels": images.levels}


def _left(seconds: float, folder: Path) -> float:
    """Seconds of a model's time that earlier calls have left."""
    run = folder / "checkpoint"
    spent = sum(row["seconds"] for row in checkpoint.load(run).history) if checkpoint.exists(run) else 0.0
    return max(0.0, seconds - spent)


def _write(points: list[Point], path: Path) -> None:
    def rows(fresh: Path) -> None:
        with fresh.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            table.writeheader()
            table.writerows(points)

    replace_file(path, rows)
