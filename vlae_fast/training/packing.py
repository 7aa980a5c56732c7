"""A trained run as a model that ships: weights in float16, the card, the figures; a folder of at most 2 MB.

The weights are those that the run evaluates, with Polyak averaging the average; they load in float32.
"""

from __future__ import annotations

import copy
import itertools
import json
import shlex
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..checkpoint.card import section, title_of, use_of
from ..checkpoint.folder import CARD
from ..checkpoint.hub import save_pretrained, write_text
from ..checkpoint.reading import Checkpoint
from ..checkpoint.shipped import FIGURES, dims_of, figure_of
from ..models import options
from ..models.rules import declared
from ..models.vlae import VLAE
from .settings import Settings

MOST_BYTES = 2_000_000
_ROWS = 12  # of the curve in the card


def bytes_in_float16(model: VLAE) -> int:
    """What a model's weights take in float16."""
    return sum(2 * tensor.numel() for tensor in model.state_dict().values())


def in_float16(model: VLAE) -> VLAE:
    """A copy in float16; ValueError where a weight is beyond its range."""
    half = copy.deepcopy(model).half()
    for name, tensor in half.state_dict().items():
        if not tensor.isfinite().all():
            most, got = torch.finfo(torch.float16).max, model.state_dict()[name].abs().max()
            raise ValueError(f"pack: {name} must be within {most:g} for float16, got {got:g}")
    return half


def pack(found: Checkpoint, out: Path, *, name: str, command: str | None, figures: Mapping[str, Any] | None) -> int:
    """Writes the folder of a model that ships, and gives the bytes of its files.

    Args:
        found: the run's checkpoint. out: the folder, whose files of a checkpoint are replaced. name: in its card.
        command: that trained it; None: as its settings say. figures: what `evaluate --json` says of the packed model.

    Raises:
        ValueError: a weight is out of float16's range, or the weights take more than 2 MB.
    """
    size = bytes_in_float16(found.model)
    if size > MOST_BYTES:
        raise ValueError(f"pack: the weights must take at most {MOST_BYTES:,} bytes in float16, got {size:,}")
    card = card_of_shipped(found, name, command or command_of(found), figures)
    half = in_float16(found.model)
    save_pretrained(half, out, card=card, epoch=found.epoch, training=found.training, history=found.history)
    if figures is not None:
        write_text(out / FIGURES, json.dumps(dict(figures), indent=1) + "\n")
    return sum((out / file).stat().st_size for file in ("config.json", "model.safetensors", CARD))


def command_of(found: Checkpoint) -> str:
    """The train command with the options that a run's checkpoint says, those at their defaults left out."""
    training = found.training
    given = {key: training[key] for key in ("data", "binarization", "epochs") if training.get(key)}
    given |= {key: value for key, value in options.to_give(found.model.config).items() if key not in options.NOT_CHOSEN}
    if found.model.n_classes:
        given["labels"] = True
    for key, setting in declared(Settings).items():
        if key in training and training[key] != setting.default:
            given[key] = training[key]
    given |= {"seed": training["seed"]} if training.get("seed") else {}
    given |= {"init": shlex.quote(str(training["init"]))} if training.get("init") else {}
    return " ".join(["vlae-fast train", *itertools.starmap(_spelled, given.items())])


def _spelled(key: str, value: Any) -> str:
    option = key.replace("_", "-")
    if isinstance(value, bool):
        return f"--{option}" if value else f"--no-{option}"
    values = value if isinstance(value, list | tuple) else [value]
    return " ".join([f"--{option}", *map(str, values)])


def card_of_shipped(found: Checkpoint, name: str, command: str, figures: Mapping[str, Any] | None) -> str:
    """The card of a model that ships: how it is sampled, how it was trained, for how long, and how good it is."""
    data, training = str(found.training.get("data") or "its data"), found.training
    minutes = sum(row.get("seconds", 0.0) for row in found.history) / 60
    said = [f"# {title_of(found)}", "", *use_of(found, name), f"    vlae-fast sample --model {name}", ""]
    said += ["## Training", "", f"In {found.epoch} epochs and {minutes:,.0f} minutes, by", "", *_indented(command), ""]
    said += [f"Split: {training.get('split', 'that of its data set')}.", "", *_curve(found.history)]
    said += section("Model", "what differs from the defaults of `vf.VLAE`", options.to_give(found.model.config))
    said += section("Settings", f"{found.epoch} epochs", training)
    if figures is not None:
        said += ["## Figures", "", "Of the weights as they ship:", "", *_rows(figures, dims_of(found.model.config)), ""]
        said += _evaluated(name, data, figures)
    said += ["## Licence", "", "The weights are under the licence of the package, MIT. They were trained on"]
    said += [f"{data}, of which no image ships: the rights in that data set are its authors'.", ""]
    return "\n".join(said)


def _indented(command: str) -> list[str]:
    """A command as a block of Markdown, long lines broken as a shell reads them."""
    lines = textwrap.wrap(command, 110, break_long_words=False, break_on_hyphens=False)
    return ["    " + " \\\n        ".join(lines)]


def _rows(figures: Mapping[str, Any], dims: int) -> list[str]:
    terms = f"reconstruction {figures['reconstruction']:.2f} + KL {figures['kl']:.2f} nats"
    of_elbo = figure_of({key: value for key, value in figures.items() if key != "nll"}, dims)
    rows = [f"| {of_elbo} | {terms} |"]
    if figures.get("nll"):
        rows.append(f"| {figure_of(figures, dims)} | {figures['nll']['bits_per_dim']:.4f} bits/dim |")
    return ["| figure, +- its standard error over images | |", "|---|---|", *rows]


def _evaluated(name: str, data: str, figures: Mapping[str, Any]) -> list[str]:
    nll = figures.get("nll")
    samples = f" --samples {nll['samples']}{' --autocast' if nll.get('autocast') else ''}" if nll else ""
    limit = f" --limit {figures['images']}" if figures["images"] < figures.get("total", figures["images"]) else ""
    split = "" if figures["split"] == "test" else f" --split {figures['split']}"
    return [f"    vlae-fast evaluate --model {name} --data {data}{split}{samples}{limit}", ""]


def _curve(history: list[dict[str, float]]) -> list[str]:
    """Epochs at equal distances, minutes since the beginning, and the loss of both splits."""
    if not history or "valid_loss" not in history[-1]:
        return []
    minutes = list(itertools.accumulate(row.get("seconds", 0.0) / 60 for row in history))
    picked = sorted({0, *(round(i * (len(history) - 1) / (_ROWS - 1)) for i in range(_ROWS))})
    rows = [
        f"| {history[i]['epoch']} | {minutes[i]:.0f} | {history[i]['loss']:.2f} | {history[i]['valid_loss']:.2f} |"
        for i in picked
    ]
    head = ["| epoch | minutes | training loss, nats | validation -ELBO, nats |", "|---|---|---|---|"]
    return [*head, *rows, ""]
