"""A checkpoint is a folder of three files, none of them a pickle:

    model.safetensors      the model's state_dict
    optimizer.safetensors  the optimizer's state, one tensor per "<parameter>/<state>"; where the model's weights are a
                           running mean, the weights in training too, "<parameter>/trained"
    config.json            format, version, model (the constructor's arguments), training, epoch, history

No random state is kept: training derives the random numbers of epoch e from (seed, e); the epoch number is the random
state.

The folder is replaced as a whole. `save` writes "<folder>.incomplete", renames the old folder to "<folder>.previous",
the new one into its place, and removes the old one; `load` falls back to ".previous", so at every moment a complete
one is found. Saves into one place take turns. The three files of a save bear its *generation*: `load` gives files of
one save, and reads again where another save replaced the folder in between.

A folder without the optimizer's state, such as the one that ships with the package, can be used but not trained on.
With README.md, its model card, it is a repository of the Hugging Face Hub (hub.py).
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl

CARD = "README.md"  # kept where the folder is replaced
FILES = ("model.safetensors", "optimizer.safetensors", "config.json")
NEEDED = ("model.safetensors", "config.json")  # to load a model; to train on, the optimizer's state as well
PRETRAINED = Path(__file__).parents[1] / "pretrained"  # ships with the package: a folder for each model, in float16
MNIST = PRETRAINED / "mnist"


def exists(folder: str | Path) -> bool:
    """True where a checkpoint is in the folder, or beside it where a save was interrupted."""
    return any((place / "config.json").is_file() for place in (Path(folder), beside(Path(folder), ".previous")))


def prepare(folder: str | Path) -> None:
    """Makes the parent of a checkpoint's folder; a run that could not save is told so before it begins.

    Raises:
        ValueError: as in `check_replaceable`.
        OSError: where the folder cannot be made or written to.
    """
    check_replaceable(folder)
    make_parent(folder)


def make_parent(folder: str | Path) -> None:
    """Makes the parent of a checkpoint's folder; OSError where it cannot be made or written to."""
    above = Path(folder).resolve().parent
    try:
        above.mkdir(parents=True, exist_ok=True)
        if not os.access(above, os.W_OK | os.X_OK):
            raise PermissionError(f"{above} must be a folder that can be written to")
    except OSError as error:
        raise OSError(f"checkpoint: {folder} cannot be saved: {error}") from error


def check_replaceable(folder: str | Path) -> None:
    """Raises ValueError where a save would remove files that are no checkpoint's."""
    for place in (Path(folder), *(beside(Path(folder), suffix) for suffix in (".previous", ".incomplete"))):
        if place.exists() and not place.is_dir():
            raise ValueError(f"checkpoint: {place} must be a folder or not be there, for it is replaced, got a file")
        found = {p.name for p in place.iterdir()} if place.is_dir() else set()
        if place.name.endswith(".incomplete"):  # of a save that was killed, with what safetensors had begun to write
            found = {name for name in found if not name.startswith(".tmp")}
        others = sorted(found - {*FILES, CARD})
        if others:
            rule = "must hold a checkpoint alone, for it is replaced"
            raise ValueError(f"checkpoint: {place} {rule}, got {others[0]!r} in it")


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Waits until no other process or thread saves a checkpoint into this folder, by a lock of the operating system.

    The lock ends with its process, however that ends, and leaves no file. On Windows, and where a file system has no
    locks, saves of two processes into one place must not meet.
    """
    if sys.platform == "win32":
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # no locks here
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def replace(folder: Path, fresh: Path) -> None:
    """Puts the folder `fresh` in the place of `folder`; OSError where it cannot, and `folder` is what it was."""
    previous, moved = beside(folder, ".previous"), folder.exists()
    if moved:  # else a save stopped between its two renames, and ".previous" is still the last good one
        shutil.rmtree(previous, ignore_errors=True)
        os.replace(folder, previous)
    try:
        os.replace(fresh, folder)
    except OSError:
        if moved:
            with suppress(OSError):  # `place_of` finds ".previous" too
                os.replace(previous, folder)
        raise
    shutil.rmtree(previous, ignore_errors=True)


def names() -> list[str]:
    """The names of the models that ship."""
    return sorted(path.parent.name for path in PRETRAINED.glob("*/config.json"))


def place_of(folder: Path) -> Path:
    """The folder that holds the checkpoint, or of the model of that name that ships, where there is none here.

    FileNotFoundError says which file is missing, or which models ship.
    """
    run = folder / "checkpoint"  # training writes it there: a run's folder is as good a name as its checkpoint's
    is_name = str(folder) == folder.name
    own = [PRETRAINED / folder.name] if is_name and folder.name in names() else []
    for place in (folder, beside(folder, ".previous"), run, beside(run, ".previous"), *own):
        if (place / "config.json").is_file():
            for name in NEEDED:
                if not (place / name).is_file():
                    raise FileNotFoundError(f"checkpoint: {place} has no {name}")
            return place
    problem = "has no config.json" if folder.is_dir() else "is not an existing folder"
    if is_name and not folder.is_dir():
        problem += f", nor a model that ships: those are {', '.join(names())}"
    raise FileNotFoundError(f"checkpoint: {folder} {problem}")


def beside(folder: Path, suffix: str) -> Path:
    """The path of a folder with a suffix behind its name."""
    folder = folder.resolve()
    return folder.with_name(folder.name + suffix)


def to_disk(path: Path) -> None:
    """Returns when the file would survive a power cut."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
