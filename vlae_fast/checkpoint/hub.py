"""Checkpoints as folders of the Hugging Face Hub: `save_pretrained`, `from_pretrained`, `push_to_hub`."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._extras import require
from ..models.pretrained import Pretrained
from ..models.vlae import VLAE
from .card import card_of
from .folder import CARD, NEEDED
from .reading import Checkpoint, load
from .writing import write_model

_REPO = re.compile(r"[\w.-]+(/[\w.-]+)?")


class HubStore:
    """The store of `models.pretrained`."""

    def save(self, model: VLAE, folder: str | Path, card: str | None) -> None:
        save_pretrained(model, folder, card=card)

    def load(self, name: str | Path, device: Any, how: dict[str, Any]) -> VLAE:
        return from_pretrained(name, device, **how).model

    def push(self, model: VLAE, repo_id: str, card: str | None, how: dict[str, Any]) -> str:
        return push_to_hub(model, repo_id, card=card, **how)


Pretrained.store = HubStore()


def save_pretrained(
    model: VLAE,
    folder: str | Path,
    *,
    card: str | None = None,
    epoch: int = 0,
    training: Mapping[str, Any] | None = None,
    history: list[dict[str, float]] | None = None,
) -> None:
    """Writes config.json, model.safetensors and, where there is none, README.md into a folder, one after the other.

    No optimizer's state is written, and one that is there is removed: it would be another model's. Other files stay.

    Args:
        card: the text of README.md, which is replaced; None: `card_of` where there is none.
        epoch, training, history: as in `Checkpoint`, where they are known.

    Raises:
        ValueError: a model that `load` would refuse. OSError: the folder cannot be written to.
    """
    folder = Path(folder)
    training, history = dict(training or {}), list(history or [])
    write_model(folder, model, epoch=epoch, training=training, history=history)
    if card is None and not (folder / CARD).exists():
        card = card_of(Checkpoint(model, epoch, training, history, folder))
    if card is not None:
        write_text(folder / CARD, card)


def write_text(path: Path, text: str) -> None:
    """Replaces a file by a new one."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}.incomplete")
    fresh.write_text(text, encoding="utf-8")
    os.replace(fresh, path)


def from_pretrained(name: str | Path, device: Any = "cpu", **how: Any) -> Checkpoint:
    """The checkpoint in a folder, or in a repository ``user/model`` of the Hub where there is no such folder.

    Only the files of a checkpoint are fetched. name: of the folder or of the repository. how: arguments of
    ``huggingface_hub.snapshot_download``.
    """
    if Path(name).exists() or not _REPO.fullmatch(str(name)):
        return load(name, device)
    try:
        return load(name, device)  # a save that was stopped leaves "<name>.previous"
    except FileNotFoundError:
        download = require("huggingface_hub").snapshot_download
    try:
        fetched = download(str(name), allow_patterns=[*NEEDED, CARD], **how)
    except (OSError, ValueError) as error:
        what = f"from_pretrained: {str(name)!r} is no folder here, and was not fetched from the Hub"
        raise FileNotFoundError(f"{what}: {error!s:.300}") from error
    return load(fetched, device)


def push_to_hub(
    model: VLAE | Checkpoint, repo_id: str, *, card: str | None = None, private: bool | None = None,
    token: str | None = None, **how: Any,
) -> str:  # fmt: skip
    """Uploads a model, or a checkpoint with its history, to a repository of the Hub; gives the commit's address.

    Args:
        repo_id: ``user/model``; it is made where it is not there.
        card: the text of README.md; None: `card_of`.
        private, token, how: of ``create_repo``, ``HfApi`` and ``upload_folder`` of huggingface_hub.
    """
    api = require("huggingface_hub").HfApi(token=token)
    found = model if isinstance(model, Checkpoint) else Checkpoint(model, 0)
    if card is None:
        card = card_of(found, name=repo_id)
    with tempfile.TemporaryDirectory() as folder:  # before anything is made on the Hub
        save_pretrained(
            found.model, folder, card=card, epoch=found.epoch, training=found.training, history=found.history
        )
        name = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        how = {"commit_message": "A model of vlae_fast"} | how
        return str(api.upload_folder(repo_id=name, folder_path=folder, **how).commit_url)
