"""Inputs of the commands that look into a model: a checkpoint, images that fit it, a picture to write."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

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
BatchSize = Annotated[int, typer.Option(min=1, help="Images per forward pass")]


def open_run(
    folder: Path, device: str, data_name: str | None, data_dir: Path | None, binarization: str | None
) -> tuple[checkpoint.Checkpoint, Images]:
    """The checkpoint on its device, and a data set of its images' shape."""
    found = checkpoint.load(folder, device_of(device))
    images = data.load(data_name, data_dir, binarization)
    check_fits(found.model, images)
    return found, images


def check_fits(model: VLAE, images: Images) -> None:
    size, channels = tuple(model.config["image_size"]), model.config["input_dim"]
    if images.image_size != size:
        raise ValueError(f"data: images must be of the model's size {size}, got {images.image_size}")
    if images.channels != channels:
        raise ValueError(f"data: images must have the model's {channels} channels, got {images.channels}")
    if images.levels != model.likelihood.levels:
        advice = f"{model.likelihood.levels} levels, got {images.levels}: see --binarization"
        raise ValueError(f"data: images must have the model's {advice}")


def some(model: VLAE, images: Images, split: str, n: int, seed: int) -> tuple[Tensor, Tensor | None]:
    """n images of a split on the model's device, [n, C, H, W], and the labels that a class-conditional model takes."""
    few = subset(images, cast(Split, split), n, seed)
    device = next(model.parameters()).device
    x = few.fixed(cast(Split, split), seed).to(device)
    if not model.n_classes:
        return x, None
    if few.labels is None:
        raise ValueError(f"data: a class-conditional model needs labels, and {images.name} has none")
    return x, few.labels[split].to(device)


def encoded(model: VLAE, images: Images, split: str, n: int, seed: int) -> tuple[Codes, Tensor | None]:
    """The codes of n images of a split, and the images' labels, where the data set has any."""
    few = subset(images, cast(Split, split), n, seed)
    return encode(model, few, cast(Split, split), seed=seed), None if few.labels is None else few.labels[split]


def generator_on(model: VLAE, seed: int) -> torch.Generator:
    return torch.Generator(next(model.parameters()).device).manual_seed(seed)
