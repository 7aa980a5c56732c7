"""Shared by the commands: the typer app, the options that more than one has, and how a user's error is shown."""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import json
import math
import os
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
import typer
from typer.core import TyperCommand, TyperGroup
from typer.models import OptionInfo

import vlae_fast as vf

from .. import data, processes, training
from ..visualization.figures import check_target
from .help_pages import page_of
from .overview import as_text, overview

_UsageError: Any = typer.BadParameter.__base__  # click's, or that of a typer which has its own click


@contextlib.contextmanager
def _usage_said_once() -> Iterator[None]:
    """The first of several processes with the same wrong command line says what is wrong with it."""
    try:
        yield
    except _UsageError:
        if os.environ.get("RANK", "0") != "0":
            raise typer.Exit(2) from None
        raise


class Group(TyperGroup):
    """The commands together, whose help is that of overview.py, which the script of the package shows without torch."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(overview())

    def make_context(self, *args: Any, **options: Any) -> Any:
        with _usage_said_once():
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        with _usage_said_once():
            return super().invoke(ctx)


class Command(TyperCommand):
    """A command whose help is its page, as the script of the package shows it without torch."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(as_text(page_of(self, str(self.name))))


class App(typer.Typer):
    """An app of such commands."""

    def command(self, name: str | None = None, **options: Any) -> Any:
        return super().command(name, cls=Command, **options)


app = App(cls=Group, no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vlae_fast {vf.__version__}")
        raise typer.Exit


@app.callback()
def _all(
    version: Annotated[bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Version")] = False,
) -> None:
    """Options of no command in particular."""


Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        help=f"One of {', '.join(data.NAMES)}; fetched once where --data-dir is not given. Or module:name of one's own "
        "Python code, or torchvision:SVHN and the like. Default: the images of --data-dir; else what a checkpoint was "
        "trained on, if it is in the folder VLAE_FAST_DATA or was fetched before; else digits",
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        help="Folder with the data set's files, as downloaded or .npz; without --data: a folder of pictures, of "
        "MNIST-style IDX files or of one .npz file, or that file"
    ),
]
ImageSize = Annotated[
    str | None,
    typer.Option(help="What pictures of --data-dir are cut and scaled to: a side, or height x width as in 48x32"),
]
Json = Annotated[bool, typer.Option("--json", help="The result as a JSON object, in place of lines")]
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
        help="Checkpoint folder, e.g. out/checkpoint, or the name of a model that ships (`models` lists them); "
        "default: mnist",
        show_default=False,
    ),
]
Named = Annotated[str | None, typer.Option("--model", help="The model, in place of CHECKPOINT, e.g. mnist")]

Function = TypeVar("Function", bound=Callable[..., None])


def user_errors(command: Function) -> Function:
    """Turns an error into one line, which names the option, and exit code 2.

    VLAE_FAST_TRACEBACK=1 in the environment keeps the traceback. Of several processes one shows it, the first to fail.
    """

    run = _with_model(command)

    @functools.wraps(run)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            with _one_of_several(command):
                run(*args, **kwargs)
        except training.Interrupted as interrupt:
            if processes.fails_first():
                typer.echo(str(interrupt), err=True)
            raise typer.Exit(130) from None
        except BrokenPipeError:  # as by `| head -1`: typer ends the process without a word
            raise
        except (ValueError, TypeError, OSError, ImportError, RuntimeError, MemoryError, OverflowError) as error:
            if os.environ.get("VLAE_FAST_TRACEBACK") == "1":
                raise
            message = by_option(" ".join((str(error) or type(error).__name__).split()), _options(command))
            if processes.fails_first():
                which = f"process {processes.rank()} of {processes.count()}: " if processes.count() > 1 else ""
                typer.echo(f"error: {which}{message}", err=True)
            raise typer.Exit(2) from None

    return wrapped  # type: ignore[return-value]


def _with_model(command: Function) -> Function:
    """Gives a command that takes a `Folder` the option --model, another way to say which; others stay as they are."""
    hints = typing.get_type_hints(command, include_extras=True)
    taking = [name for name, hint in hints.items() if hint == Folder]
    if not taking:
        return command
    own = inspect.signature(command)
    default = own.parameters[taking[0]].default

    @functools.wraps(command)
    def wrapped(*args: Any, model: str | None = None, **given: Any) -> None:
        if model is not None:
            if given.get(taking[0], default) != default:
                raise ValueError(f"--model: must not be given beside CHECKPOINT {given[taking[0]]}, got {model}")
            given[taking[0]] = Path(model)
        command(*args, **given)

    named = inspect.Parameter("model", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Named)
    parameters = [p.replace(annotation=hints[p.name]) for p in own.parameters.values()]
    wrapped.__signature__ = own.replace(parameters=[*parameters, named])  # type: ignore[attr-defined]
    wrapped.__annotations__ = {**hints, "model": Named}
    return wrapped  # type: ignore[return-value]


_IN_PROCESSES: set[Callable[..., None]] = set()


def in_processes(command: Function) -> Function:
    """Marks a command, under `user_errors`, that several processes share."""
    _IN_PROCESSES.add(command)
    return command


@contextlib.contextmanager
def _one_of_several(command: Callable[..., None]) -> Iterator[None]:
    """Joins the other processes of a launcher; only the first of them says something."""
    size = os.environ.get("WORLD_SIZE", "1")
    if "RANK" in os.environ and size != "1" and command not in _IN_PROCESSES:
        raise ValueError(f"WORLD_SIZE: must be 1, for several processes do not share this command, got {size}")
    processes.join()
    with contextlib.ExitStack() as silence:
        if not processes.is_first():
            silence.enter_context(contextlib.redirect_stdout(io.StringIO()))
            silence.enter_context(contextlib.redirect_stderr(io.StringIO()))
        yield


_ARGUMENTS = {"data": "data_name", "path": "out", "out_dir": "out"}  # of the library, by other names here


def _options(command: Callable[..., None]) -> dict[str, str]:
    """The option of each argument that a message may name."""
    found = {}
    for name, annotation in typing.get_type_hints(command, include_extras=True).items():
        for mark in getattr(annotation, "__metadata__", ()):
            if isinstance(mark, OptionInfo):
                given = (mark.default, *(mark.param_decls or ()))  # typer takes the first name for a default
                decls = [flag for flag in given if isinstance(flag, str) and flag.startswith("-")]
                found[name] = decls[0].partition("/")[0] if decls else "--" + name.replace("_", "-")
    return found | {theirs: found[ours] for theirs, ours in _ARGUMENTS.items() if ours in found}


def by_option(message: str, options: Mapping[str, str]) -> str:
    """A message of the library with the option in place of the argument that it is about.

    >>> by_option("VLAE: hidden_dim must be at least 2, got 1", {"hidden_dim": "--hidden-dim"})
    '--hidden-dim must be at least 2, got 1'
    """
    for pattern, end in ((r"(?:\w+: )?(\w+) must ", " must "), (r"(\w+(?:, \w+)*): ", ": ")):
        found = re.match(pattern, message)
        names = found[1].split(", ") if found else []
        if found and all(name in options for name in names):
            return ", ".join(options[name] for name in names) + end + message[found.end() :]
    return message


def picture(out: Path | None, *endings: str) -> None:
    """Checks before the work starts that the picture of --out can be written; endings: those allowed, None for any."""
    if out is not None:
        check_target(out, endings)


def as_json(result: Mapping[str, Any]) -> None:
    """Prints a result as one JSON object; a number that is not finite is null, as JSON has it."""
    typer.echo(json.dumps(_plain(result), indent=1, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def size_of(text: str | None) -> tuple[int, int] | None:
    """(H, W) of --image-size."""
    if text is None:
        return None
    sides = re.fullmatch(r"(\d{1,4})(?:x(\d{1,4}))?", text)
    if sides is None or "0" in {side.lstrip("0") or "0" for side in sides.groups(text) if side}:
        raise ValueError(f"--image-size: must be a side, or height x width as in 48x32, in pixels, got {text!r}")
    return int(sides[1]), int(sides[2] or sides[1])


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
        return processes.device_of("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type in ("cpu", "cuda"):
            torch.empty(0, device=device)
            return processes.device_of(device)
        reason = "of another type"
    except (RuntimeError, AssertionError) as error:  # torch asserts where it was built without CUDA
        reason = str(error)
    raise ValueError(f"--device: must be auto, cpu or a cuda device that is there, got {name!r}: {reason}")
