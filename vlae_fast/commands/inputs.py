"""Inputs of the commands that look into a model: a checkpoint, images that fit it, a picture to write."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, cast

import torch
import typer
from torch import Tensor

from .. import checkpoint, data
from ..data import Images, Split
from ..evaluation import Codes, encode, subset
from ..models.vlae import VLAE
from .app import device_of

SplitName = Annotated[str, typer.Option("--split", help="train, valid or test")]
Count = Annotated[int, typer.Option("-n", min=1, help="Number of images, drawn at random from the split")]
Show = Annotated[
    str | None,
    typer.Option(
        help="mean: E[x | z], of 16 draws where the decoder loops over pixels; draws: from p(x | z). Default: draws "
        "where it does, else mean"
    ),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Images per forward pass")]


def open_run(
    folder: Path, device: str, data_name: str | None, data_dir: Path | None, binarization: str | None
) -> tuple[checkpoint.Checkpoint, Images]:
    """The checkpoint on its device, and a data set of its images' shape; says where it was trained on another.

    Where none is named it is the model's own, if its files are in `data_dir`, in VLAE_FAST_DATA or in the cache of
    earlier downloads, else the digits. Nothing is downloaded that was not named.
    """
    found = checkpoint.load(folder, device_of(device))
    like = tuple(found.model.config["image_size"]), found.model.config["input_dim"]
    images = images_for(found.training, data_name, data_dir, binarization, like)
    check_fits(found.model, images, str(found.training.get("data") or ""))
    if note := other_data(found.training, images):
        typer.echo(note, err=True)
    return found, images


def images_for(
    training: Mapping[str, Any],
    data_name: str | None,
    data_dir: Path | None,
    binarization: str | None,
    like: tuple[Any, int] | None = None,
) -> Images:
    """The data set that was asked for, or the one that `training`, of a checkpoint, names.

    like: (height, width) and channels that pictures are made to have. What a checkpoint names is never imported.
    """
    own, asked = str(training.get("data") or ""), (data_name or "").replace("_", "-")
    name = asked or own
    how = training.get("binarization") if binarization is None and name == own else binarization
    by_name = _is_found(name)
    if data_dir is None:
        found = data.find(name, how) if by_name else None
        if found is not None:
            return found
        return data.load(data_name, None, how if name in (asked, "digits") else binarization)
    if data_name is not None:
        return data.load(data_name, data_dir, how)
    try:
        if like is None:
            found = data.load(None, data_dir, binarization)
        else:
            found = data.own_images(data_dir, binarization, image_size=like[0], channels=like[1])
    except FileNotFoundError:
        if not by_name:
            raise
        return data.load(name, data_dir, how)  # a folder of data sets, with the model's own among them
    if how and own in _names(found) and (how == "fixed") == (found.binarization == "fixed"):
        return dataclasses.replace(found, binarization=how)
    return found


def own_images_of(training: Mapping[str, Any], binarization: str | None) -> Images | None:
    """The data set that a checkpoint was trained on, where it is here already; else None."""
    name = str(training.get("data") or "")
    how = training.get("binarization") if binarization is None else binarization
    if name == "digits":
        return data.load(name, None, how)
    return data.find(name, how) if _is_found(name) else None


def _is_found(name: str) -> bool:
    """True of a data set whose files may be here."""
    return name in data.NAMES and name != "digits"


def other_data(training: Mapping[str, Any], images: Images) -> str | None:
    """A line that says so where images are not of the data set, or of the binarization, that a model was trained on."""
    own, how = training.get("data"), training.get("binarization")
    if not own or (own in _names(images) and how in (None, images.binarization)):
        return None
    advice = "see --binarization" if own in _names(images) else "name its own by --data-dir"
    if own in data.NAMES and own not in _names(images):
        advice += f", or by --data {own}, which is fetched once"
    trained = f"{own} ({how})" if how else own
    return f"note: this model was trained on {trained}; these are {images.name} ({images.binarization}): {advice}"


def _names(images: Images) -> tuple[str, str]:
    """The names that a data set may have: a folder's name is anything."""
    return images.name, data.name_of(images)


def check_fits(model: VLAE, images: Images, own: str = "") -> None:
    """Raises ValueError where images are not of the model's shape and levels; own: the data set of its training."""
    option = "--data" if own in data.NAMES else "--data-dir"
    advice = f"; it was trained on {own}: see {option}" if own and own != images.name else ""
    size, channels = tuple(model.config["image_size"]), model.config["input_dim"]
    if images.image_size != size:
        raise ValueError(f"data: images must be of the model's size {size}, got {images.image_size}{advice}")
    if images.channels != channels:
        raise ValueError(f"data: images must have the model's {channels} channels, got {images.channels}{advice}")
    if images.levels != model.likelihood.levels:
        levels = f"{model.likelihood.levels} levels, got {images.levels}: see --binarization"
        raise ValueError(f"data: images must have the model's {levels}{advice}")


def some(model: VLAE, images: Images, split: str, n: int, seed: int) -> tuple[Tensor, Tensor | None]:
    """n images of a split on the model's device, [n, C, H, W], and the labels that a class-conditional model takes."""
    few = subset(images, cast(Split, split), n, seed)
    x, labels = picked(model, few, split, torch.arange(len(few.pixels(cast(Split, split)))), seed)
    return x, labels_for(model, images, labels)


def picked(model: VLAE, images: Images, split: str, rows: Tensor, seed: int) -> tuple[Tensor, Tensor | None]:
    """The images of these rows of a split on the model's device, and their labels, where the data set has any."""
    labels = None if images.labels is None else images.labels | {split: images.labels[split][rows]}
    changed: dict[str, Any] = {split: images.pixels(cast(Split, split))[rows], "labels": labels}
    few, device = dataclasses.replace(images, **changed), next(model.parameters()).device
    x = few.fixed(cast(Split, split), seed).to(device)
    return x, None if labels is None else labels[split].to(device)


def labels_for(model: VLAE, images: Images, labels: Tensor | None) -> Tensor | None:
    """The labels that the model takes: none, unless it is class-conditional."""
    if not model.n_classes:
        return None
    if labels is None:
        raise ValueError(f"data: a class-conditional model needs labels, and {images.name} has none")
    return labels


def mean_of(show: str | None) -> bool | None:
    """The meaning of --show, as `generation` takes it."""
    if show not in (None, "mean", "draws"):
        raise ValueError(f"--show: must be mean or draws, got {show!r}")
    return None if show is None else show == "mean"


def numbers(option: str, text: str, rule: str) -> list[int]:
    """Whole numbers with commas between them; ValueError names the option and its rule."""
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise ValueError(f"{option}: must be {rule}, got {text!r}") from None


def encoded(model: VLAE, images: Images, split: str, n: int, seed: int) -> tuple[Codes, Tensor | None]:
    """The codes of n images of a split, and the images' labels, where the data set has any."""
    few = subset(images, cast(Split, split), n, seed)
    return encode(model, few, cast(Split, split), seed=seed), None if few.labels is None else few.labels[split]


def generator_on(model: VLAE, seed: int) -> torch.Generator:
    return torch.Generator(next(model.parameters()).device).manual_seed(seed)
