"""Reading a checkpoint: nothing in it is trusted, and all of it is of one save."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..models.vlae import VLAE
from . import parts, tensors
from .config import read
from .folder import place_of

_LOOKS, _PAUSE = 20, 0.01  # seconds: a save replaces the folder in much less
_FIGURES = (("valid_loss", "-ELBO", 2, "nats/image"), ("valid_bits_per_dim", "or", 4, "bits/dim"))


@dataclass(repr=False)
class Checkpoint:
    """The content of a checkpoint folder.

    epoch: the last one. training: the settings. history: one dict per epoch, in nats per image unless named otherwise.
    generation: the name of its save; None where an older release wrote it.
    """

    model: VLAE
    epoch: int
    training: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    folder: Path = Path()
    generation: str | None = None

    def __repr__(self) -> str:
        model, config = self.model, self.model.config
        count = sum(parameter.numel() for parameter in model.parameters())
        size = "x".join(map(str, (config["input_dim"], *config["image_size"])))
        data = f" on {self.training['data']}" if self.training.get("data") else ""
        parts = f"{type(model).__name__}, {count:,} parameters, images {size}, decoder {config['decoder']}"
        last = self.history[-1] if self.history else {}
        figures = [f"{name} {last[key]:.{digits}f} {unit}" for key, name, digits, unit in _FIGURES if key in last]
        return (
            f"Checkpoint {self.folder}: epoch {self.epoch}{data}\n"
            f"  {parts}, {config['likelihood']}, {model.latent_dim} latent dimensions\n"
            f"  validation: {' '.join(figures) or 'no figures'}"
        )


def load(folder: str | Path, device: str | torch.device = "cpu") -> Checkpoint:
    """The model of a checkpoint, on `device`, in eval mode.

    Nothing is trusted: config.json and the shapes in the tensor file are compared before memory is taken for a model.
    A save that replaces the folder meanwhile does no harm: all that is returned is of one save.

    Raises:
        FileNotFoundError: a missing folder or file.
        ValueError: anything else, naming the file, the rule and what was found.
    """
    for look in range(_LOOKS):
        try:
            found = _load(place_of(Path(folder)))
            break
        except (FileNotFoundError, tensors.OtherSaveError):  # replaced between two of its files: look again
            if look + 1 == _LOOKS:
                raise
            time.sleep(_PAUSE)
    found.model.to(device)
    return found


def _load(place: Path) -> Checkpoint:
    config = read(place / "config.json")
    path, given, own = place / "model.safetensors", dict(config["model"]), config.get("parts", {})
    generation = config.get("generation")

    def expected_of(found: tensors.Shapes) -> tensors.Likes:
        _name_z_channels(given, found)
        _check_flows(path, given, found)
        return build(given, "meta", own).state_dict()

    weights = tensors.read(path, expected_of, generation)  # none of them is in memory yet
    model = build(given, "cpu", own)
    model.load_state_dict(weights)
    for name, tensor in model.state_dict().items():
        tensors.check_finite(path, name, tensor)
    return Checkpoint(model.eval(), config["epoch"], config["training"], config["history"], place, generation)


def _name_z_channels(config: dict[str, Any], found: tensors.Shapes) -> None:
    """Puts down the z_channels that an older config leaves to the model: none, or a resnet's own where it says 0."""
    mapped = any(name.startswith("decoder.code_map.") for name in found)
    if config.get("z_channels") is None and not mapped:
        config["z_channels"] = 0
    if config.get("z_channels") == 0 and mapped and config.get("decoder") == "resnet":
        config["z_channels"] = None


def _check_flows(path: Path, config: Mapping[str, Any], found: tensors.Shapes) -> None:
    """Raises ValueError where a flow has more degrees than the file has biases: degrees take memory even on "meta"."""
    flows = config.get("use_flow", True) or config.get("posterior") == "iaf"
    if not flows or config.get("latent_dim") == 0:
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
        the weights in training by name where `averaged`, else nothing: the model has them.

    Raises:
        ValueError: another save has replaced the folder since `found` was loaded; the optimizer is of another kind, or
            is neither of ``found.model``'s parameters nor of all those of a model like it in one group.
    """
    path = found.folder / "optimizer.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint: {found.folder} has no {path.name}, which training on needs")
    return tensors.read_optimizer(path, found.model, optimizer, averaged, found.generation)


def build(model_config: Mapping[str, Any], device: str, own: Mapping[str, str] | None = None) -> VLAE:
    """VLAE(**model_config) on `device`; on "meta" it has shapes and no memory.

    own: classes of parts of one's own by name, as ``module:class``.
    """
    try:
        with torch.device(device):
            model = VLAE(**model_config)
            parts.put(model, own or {})
            return model
    except (TypeError, ValueError, RuntimeError) as error:  # unknown names, values that do not go together, overflow
        raise ValueError(f"config.json: model: does not build a VLAE: {error!s:.500}") from error
