"""Models that ship with the package: the folders of ``vlae_fast/pretrained``, each a checkpoint with its card.

figures.json, beside the files of a checkpoint, has what `evaluate --json` said of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import config, folder

FIGURES = "figures.json"


@dataclass(frozen=True)
class Shipped:
    """A model that ships.

    name: of its folder, a path. data: what it was trained on. figure: how good it is, in a line. size: of its files,
    in bytes.
    """

    name: str
    folder: Path
    data: str
    figure: str
    size: int


def shipped() -> list[Shipped]:
    """Every model that ships, by name."""
    return [_shipped(name, folder.PRETRAINED / name) for name in folder.names()]


def read_figures(path: Path) -> dict[str, Any]:
    """What `evaluate --json` wrote; ValueError where that is not in the file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from error
    needed = ("data", "split", "elbo", "elbo_error", "images", "bits_per_dim")
    missing = [key for key in needed if not isinstance(found, dict) or key not in found]
    if missing:
        raise ValueError(f"{path}: must be what `vlae-fast evaluate --json` prints, got none with {missing[0]!r}")
    return dict(found)


def figure_of(figures: Mapping[str, Any], dims: int = 0) -> str:
    """The best figure in one line, with its standard error over images: the NLL where it is known, else -ELBO.

    dims: of an image, for bits per dimension; 0: in nats, as figures of black and white images are given.
    """
    nll = figures.get("nll")
    if nll:
        what, nats, error = f"NLL at most, {nll['samples']} samples", nll["nll"], nll["error"]
    else:
        what, nats, error = "-ELBO", -figures["elbo"], figures["elbo_error"]
    of, value = nll or figures, f"{nats:.2f} +- {error:.2f} nats"
    if dims:
        value = f"{of['bits_per_dim']:.4f} +- {error / (dims * math.log(2)):.4f} bits/dim"
    return f"{value} ({what}, {of['images']:,} {figures['split']} images)"


def dims_of(model: Mapping[str, Any]) -> int:
    """Values of an image of a model's config, for `figure_of`; 0 where they are black and white."""
    binary = model.get("likelihood", "bernoulli") == "bernoulli"
    return 0 if binary else int(model.get("input_dim", 1)) * math.prod(model.get("image_size", (28, 28)))


def _shipped(name: str, at: Path) -> Shipped:
    found = config.read(at / "config.json")
    training, history = found["training"], found["history"]
    how = f" ({training['binarization']})" if training.get("binarization") else ""
    if (at / FIGURES).is_file():
        figure = figure_of(read_figures(at / FIGURES), dims_of(found["model"]))
    elif history and "valid_loss" in history[-1]:
        figure = f"{history[-1]['valid_loss']:.2f} nats (-ELBO of the validation images in training)"
    else:
        figure = "no figures"
    size = sum(path.stat().st_size for path in at.iterdir() if path.is_file())
    return Shipped(name, at, f"{training.get('data') or 'unknown'}{how}", figure, size)
