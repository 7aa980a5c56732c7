"""A checkpoint is a folder of three files, none of them a pickle:

    model.safetensors      the model's state_dict
    optimizer.safetensors  the optimizer's state, one tensor per "<parameter>/<state>"; where the model's weights are a
                           running mean, the weights in training too, "<parameter>/trained"
    config.json            format, version, model (the constructor's arguments), training, epoch, history

No random state is kept: training derives the random numbers of epoch e from (seed, e); the epoch number is the random
state.

The folder is replaced as a whole. `save` writes "<folder>.incomplete", renames the old folder to "<folder>.previous",
the new one into its place, and removes the old one; `load` falls back to ".previous", so at every moment a complete
one is found.

A folder without the optimizer's state, such as the one that ships with the package, can be used but not trained on.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..models.vlae import VLAE
from . import tensors
from .config import FORMAT, VERSION, check, read

_FILES = ("model.safetensors", "optimizer.safetensors", "config.json")
_NEEDED = ("model.safetensors", "config.json")  # to load a model; to train on, the optimizer's state as well
MNIST = Path(__file__).parents[1] / "pretrained" / "mnist"  # ships with the package, its weights in float16


@dataclass
class Checkpoint:
    """What a checkpoint folder holds.

    epoch: the last one. training: the settings. history: one dict per epoch, in nats per image unless named otherwise.
    """

    model: VLAE
    epoch: int
    training: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    folder: Path = Path()


def save(
    folder: str | Path,
    model: VLAE,
    optimizer: torch.optim.Optimizer,
    *,
    epoch: int,
    training: Mapping[str, Any],
    history: list[dict[str, float]],
    trained: Mapping[str, Tensor] | None = None,
) -> None:
    """Replaces `folder` by a new checkpoint; an interruption at any moment leaves the old or the new one.

    Args:
        optimizer: of the model's parameters. epoch: the last one. training, history: as of `Checkpoint`.
        trained: the weights in training by name, where those of `model` are their average.

    Raises:
        ValueError: before anything is written, for a model or a history that `load` would refuse.
        OSError: where it cannot be written; the old one is left.
    """
    folder = Path(folder).resolve()  # a link goes on to lead to the checkpoint
    config: dict[str, Any] = {"format": FORMAT, "version": VERSION}
    config |= {"model": model.config, "training": dict(training), "epoch": epoch, "history": history}
    check(str(folder), config)
    prepare(folder)
    fresh, previous = _beside(folder, ".incomplete"), _beside(folder, ".previous")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        fresh.mkdir()
        tensors.write(fresh / "model.safetensors", model.state_dict())
        tensors.write_optimizer(fresh / "optimizer.safetensors", model, optimizer, trained or {})
        (fresh / "config.json").write_text(json.dumps(config, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        for name in _FILES:
            _to_disk(fresh / name)
    except OSError as error:
        shutil.rmtree(fresh, ignore_errors=True)
        raise OSError(f"checkpoint: {folder} was not saved, and is what it was: {error}") from error
    if folder.exists():  # else a save stopped between its two renames, and ".previous" is still the last good one
        shutil.rmtree(previous, ignore_errors=True)
        os.replace(folder, previous)
    os.replace(fresh, folder)
    shutil.rmtree(previous, ignore_errors=True)


def prepare(folder: str | Path) -> None:
    """Makes the folder that a checkpoint's is in; a run that could not save is told so before it begins.

    Raises:
        ValueError: as `check_replaceable`.
        OSError: where the folder cannot be made or written to.
    """
    check_replaceable(folder)
    above = Path(folder).resolve().parent
    try:
        above.mkdir(parents=True, exist_ok=True)
        if not os.access(above, os.W_OK | os.X_OK):
            raise PermissionError(f"{above} must be a folder that can be written to")
    except OSError as error:
        raise OSError(f"checkpoint: {folder} cannot be saved: {error}") from error


def check_replaceable(folder: str | Path) -> None:
    """Raises ValueError where a save would remove files that are no checkpoint's."""
    for place in (Path(folder), *(_beside(Path(folder), suffix) for suffix in (".previous", ".incomplete"))):
        if place.exists() and not place.is_dir():
            raise ValueError(f"checkpoint: {place} must be a folder or not be there, for it is replaced, got a file")
        found = {p.name for p in place.iterdir()} if place.is_dir() else set()
        if place.name.endswith(".incomplete"):  # of a save that was killed, with what safetensors had begun to write
            found = {name for name in found if not name.startswith(".tmp")}
        others = sorted(found - set(_FILES))
        if others:
            rule = "must hold a checkpoint alone, for it is replaced"
            raise ValueError(f"checkpoint: {place} {rule}, got {others[0]!r} in it")


def exists(folder: str | Path) -> bool:
    """Whether there is a checkpoint in the folder, or one that a save left beside it."""
    return any((place / "config.json").is_file() for place in (Path(folder), _beside(Path(folder), ".previous")))


def load(folder: str | Path, device: str | torch.device = "cpu") -> Checkpoint:
    """The model of a checkpoint, on `device`, in eval mode.

    Nothing is trusted: config.json and the shapes in the tensor file are compared before memory is taken for a model.

    Raises:
        FileNotFoundError: a missing folder or file.
        ValueError: anything else, naming the file, the rule and what was found.
    """
    place = _place(Path(folder))
    config = read(place / "config.json")
    path, given = place / "model.safetensors", config["model"]

    def expected_of(found: tensors.Shapes) -> tensors.Shapes:
        _check_flows(path, given, found)
        return {name: tuple(t.shape) for name, t in build(given, "meta").state_dict().items()}

    weights = tensors.read(path, expected_of)  # of which none is in memory yet
    model = build(given, "cpu")
    model.load_state_dict(weights)
    _check_finite(path, model)
    return Checkpoint(model.to(device).eval(), config["epoch"], config["training"], config["history"], place)


def _check_flows(path: Path, config: Mapping[str, Any], found: tensors.Shapes) -> None:
    """The degrees of a flow take memory even on "meta": no more of them than there are biases in the file."""
    if not (config.get("use_flow", True) or config.get("posterior") == "iaf"):
        return
    steps, hidden = config.get("flow_steps", 1), config.get("flow_layers", 1)
    outputs = 0 if config.get("latent_map") else config.get("latent_dim", 1)
    biases = steps * (hidden * config.get("flow_hidden", 1) + outputs)
    numbers = sum(map(math.prod, found.values()))
    if steps * hidden > len(found) or biases > numbers:
        raise ValueError(
            f"{path}: must hold {steps} flow_steps of {hidden} flow_layers and their {biases:,} biases "
            f"according to config.json, found {len(found):,} tensors of {numbers:,} numbers"
        )


def load_optimizer(found: Checkpoint, optimizer: torch.optim.Optimizer, *, averaged: bool = False) -> dict[str, Tensor]:
    """Puts the saved state into `optimizer`, which was made for a model like ``found.model`` and has its own settings.

    Returns:
        the weights in training by name where `averaged`, else nothing: they are those of the model.
    """
    path = found.folder / "optimizer.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint: {found.folder} has no {path.name}, which training on needs")
    return tensors.read_optimizer(path, found.model, optimizer, averaged)


def build(model_config: Mapping[str, Any], device: str) -> VLAE:
    """VLAE(**model_config) on `device`; on "meta" it has shapes and no memory."""
    try:
        with torch.device(device):
            return VLAE(**model_config)
    except (TypeError, ValueError, RuntimeError) as error:  # unknown names, values that do not go together, overflow
        raise ValueError(f"config.json: model: does not build a VLAE: {error!s:.500}") from error


def _place(folder: Path) -> Path:
    run = folder / "checkpoint"  # what training writes: a run's folder is as good a name as its checkpoint's
    for place in (folder, _beside(folder, ".previous"), run, _beside(run, ".previous")):
        if (place / "config.json").is_file():
            for name in _NEEDED:
                if not (place / name).is_file():
                    raise FileNotFoundError(f"checkpoint: {place} has no {name}")
            return place
    problem = "has no config.json" if folder.is_dir() else "is not an existing folder"
    raise FileNotFoundError(f"checkpoint: {folder} {problem}")


def _check_finite(path: Path, model: nn.Module) -> None:
    for name, tensor in model.state_dict().items():
        if not tensor.isfinite().all():
            raise ValueError(f"{path}: {name} must be finite, found NaN or infinity")


def _beside(folder: Path, suffix: str) -> Path:
    folder = folder.resolve()
    return folder.with_name(folder.name + suffix)


def _to_disk(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
