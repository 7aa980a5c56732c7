"""Writing a checkpoint: only what `load` would take, and whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..layers import MaskedConv2d, MaskedLinear
from ..models.vlae import VLAE
from . import tensors
from .config import FORMAT, VERSION, check
from .folder import CARD, FILES, NEEDED, alone, beside, check_replaceable, make_parent, replace, to_disk
from .parts import own_parts
from .reading import build


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
        optimizer: of the model's parameters. epoch: the last one. training, history: as in `Checkpoint`.
        trained: the weights in training and running statistics by name, where those of `model` are their average.

    A dead weight that is NaN or infinite is written as 0: no layer reads it.

    Raises:
        ValueError: before anything is written, for a model, an optimizer, settings or a history that `load`, or
            resuming, would refuse.
        OSError: where it cannot be written; the old one is left.
    """
    folder = Path(folder).resolve()  # keeps symbolic links working
    tensors.check_optimizer(optimizer, model)
    config, weights = _checked(folder, model, epoch, training, history)
    trained = _without_dead(model, trained or {})
    if trained:
        shapes = {name: tuple(tensor.shape) for name, tensor in trained.items()}
        tensors.check_shapes(folder, shapes, tensors.moving(model))
    for name, tensor in trained.items():
        tensors.check_finite(folder, name, tensor)
    state = tensors.optimizer_state(model, optimizer, trained)
    config["generation"] = generation = _generation(weights | state)
    text = json.dumps(config, indent=1, allow_nan=False) + "\n"
    make_parent(folder)
    with alone(folder.parent):
        check_replaceable(folder)
        fresh = beside(folder, ".incomplete")
        shutil.rmtree(fresh, ignore_errors=True)
        try:
            fresh.mkdir()
            tensors.write(fresh / "model.safetensors", weights, generation)
            tensors.write(fresh / "optimizer.safetensors", state, generation)
            (fresh / "config.json").write_text(text, encoding="utf-8")
            if _describes(folder, model):
                shutil.copyfile(folder / CARD, fresh / CARD)
            for name in FILES:
                to_disk(fresh / name)
            replace(folder, fresh)
        except OSError as error:
            shutil.rmtree(fresh, ignore_errors=True)
            raise OSError(f"checkpoint: {folder} was not saved, and is what it was: {error}") from error


def _describes(folder: Path, model: VLAE) -> bool:
    """True where the folder has a card, and a checkpoint of a model of the same form: another one it would belie."""
    try:
        before = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model"]
    except (OSError, ValueError, LookupError, TypeError):
        before = None
    return (folder / CARD).is_file() and before in (None, json.loads(json.dumps(model.config)))


def write_model(
    folder: Path, model: VLAE, *, epoch: int, training: Mapping[str, Any], history: list[dict[str, float]]
) -> None:
    """Writes config.json and model.safetensors into a folder that may hold other files; see `save` for what it checks.

    Each is written beside the one that it replaces, and renamed. An optimizer's state that is there is removed.
    """
    config, weights = _checked(folder, model, epoch, training, history)
    config["generation"] = generation = _generation(weights)
    ends = {name: folder / f".{name}.incomplete" for name in NEEDED}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tensors.write(ends["model.safetensors"], weights, generation)
        text = json.dumps(config, indent=1, allow_nan=False) + "\n"
        ends["config.json"].write_text(text, encoding="utf-8")
        (folder / "optimizer.safetensors").unlink(missing_ok=True)
        for name, fresh in ends.items():
            os.replace(fresh, folder / name)
    except OSError as error:
        for fresh in ends.values():
            with suppress(OSError):
                fresh.unlink(missing_ok=True)
        raise OSError(f"checkpoint: {folder} was not saved: {error}") from error


def _checked(
    folder: Path, model: VLAE, epoch: int, training: Mapping[str, Any], history: list[dict[str, float]]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The content of config.json, and the weights; ValueError where `load` would refuse them."""
    own, weights = check_loadable(model, folder), _without_dead(model, model.state_dict())
    for name, tensor in weights.items():
        tensors.check_finite(folder, name, tensor)
    config: dict[str, Any] = {"format": FORMAT, "version": VERSION}
    config |= {"model": model.config, "training": dict(training), "epoch": epoch, "history": history}
    config |= {"parts": own} if own else {}
    check(str(folder), config)
    return config, weights


def check_loadable(model: VLAE, folder: str | Path = "checkpoint") -> dict[str, str]:
    """Raises ValueError unless a model made of the same options has the same tensors: else it could not be loaded.

    folder: the place of the save, which the message names.

    Returns:
        the classes of parts of one's own by name, as ``module:class``: an encoder that was put in the model's place.
    """
    plain = build(model.config, "meta")
    own = own_parts(model, plain)
    expected = build(model.config, "meta", own) if own else plain
    found = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tensors.check_shapes(Path(folder), found, expected.state_dict())
    return own


def _without_dead(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The model's weights by name, with 0 in place of dead entries that are not finite."""
    alive = dict(weights)
    for path, layer in model.named_modules():
        name = f"{path}.weight"
        if isinstance(layer, MaskedConv2d | MaskedLinear) and name in alive and not alive[name].isfinite().all():
            alive[name] = torch.where(layer.mask, alive[name], 0)
    return alive


def _generation(tensors: Mapping[str, Tensor]) -> str:
    """A name for a save, from its tensors alone: a resumed run writes the same files as one that never stopped."""
    digest = hashlib.blake2b(digest_size=16)
    for _, tensor in sorted(tensors.items()):
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
