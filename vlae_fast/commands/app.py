"""Shared by the commands: the typer app, the options that more than one has, and how a user's error is shown."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
import typer

from .. import data, training

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Fast Variational Lossy Autoencoders. Likelihoods are in nats per image and in bits per dimension. "
    "VLAE_FAST_TRACEBACK=1 shows where an error comes from.",
)

Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        help=f"One of {', '.join(data.NAMES)}; fetched once where --data-dir is not given. Default: the IDX files of "
        "--data-dir; else what a checkpoint was trained on, if it is in the folder VLAE_FAST_DATA or was fetched "
        "before; else digits",
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(help="Folder with the data set's files, as downloaded or .npz; without --data: MNIST-style IDX files"),
]
Binarization = Annotated[
    str | None,
    typer.Option(
        help="dynamic (redrawn each time; default of grey images), threshold (at one half; default of digits), fixed "
        "(images that are binary), none (256 levels; default of RGB)"
    ),
]
Classes = Annotated[
    str | None, typer.Option("--classes", help="Only the images of these classes, e.g. 0 or 0,1; default: of all")
]
Device = Annotated[str, typer.Option(help="auto (a GPU if there is one), cpu, cuda, cuda:1, ...")]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of every random number")]
Folder = Annotated[
    Path,
    typer.Argument(
        metavar="[CHECKPOINT]",
        help="Checkpoint folder, e.g. out/checkpoint; default: the MNIST model that ships with the package",
        show_default=False,
    ),
]

Command = TypeVar("Command", bound=Callable[..., None])


def user_errors(command: Command) -> Command:
    """Turns an error into one line and exit code 2; VLAE_FAST_TRACEBACK=1 in the environment keeps the traceback."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except training.Interrupted as interrupt:
            typer.echo(str(interrupt), err=True)
            raise typer.Exit(130) from None
        except (ValueError, TypeError, OSError, ImportError, RuntimeError, MemoryError, OverflowError) as error:
            if os.environ.get("VLAE_FAST_TRACEBACK") == "1":
                raise
            typer.echo("error: " + " ".join((str(error) or type(error).__name__).split()), err=True)
            raise typer.Exit(2) from None

    return wrapped  # type: ignore[return-value]


def classes_of(option: str, text: str) -> list[int]:
    """Classes with commas between them, as an option has them."""
    try:
        return [int(label) for label in text.split(",")]
    except ValueError:
        raise ValueError(f"{option}: must be classes with commas between them, got {text!r}") from None


def only_classes(images: data.Images, text: str | None) -> data.Images:
    """The images that --classes leaves."""
    if text is None:
        return images
    classes = classes_of("--classes", text)
    try:
        return images.only(classes)
    except ValueError as error:
        raise ValueError(f"--classes: {str(error).removeprefix('classes: ')}") from None


def device_of(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type in ("cpu", "cuda"):
            torch.empty(0, device=device)
            return device
        reason = "of another type"
    except (RuntimeError, AssertionError) as error:  # torch asserts where it was built without CUDA
        reason = str(error)
    raise ValueError(f"--device: must be auto, cpu or a cuda device that is there, got {name!r}: {reason}")
