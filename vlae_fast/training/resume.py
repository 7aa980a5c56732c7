"""Resuming a run from the files that it left on disk."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from .. import checkpoint, processes
from ..data import Images
from ..models.vlae import VLAE
from .average import Average
from .objective import Objective
from .progress import FIGURES, History
from .settings import Schedule, Settings


class Interrupted(KeyboardInterrupt):
    """Training was interrupted; the message says what is saved and how to go on."""


def describe(schedule: Schedule, images: Images, init: str | Path | None = None) -> dict[str, Any]:
    """Settings and data that a resumed run must share with the run that it goes on from.

    init: the checkpoint that the run starts from.
    """
    planned = {"epochs": schedule.epochs} if schedule.settings.lr_schedule == "cosine" else {}
    data = {"data": images.name, "split": images.split, "binarization": images.binarization}
    several = {"processes": processes.count()} if processes.count() > 1 else {}
    begun = {} if init is None else {"init": str(init)}
    return asdict(schedule.settings) | planned | data | several | begun


def after_restart(folder: Path, *, resume: bool, overwrite: bool) -> tuple[bool, bool]:
    """resume and overwrite as they are meant now: started anew by torchrun, a run goes on from its own checkpoint.

    With overwrite a mark beside the folder names the checkpoint of an earlier run, until there is one of this run.
    """
    mark = _mark(folder)
    if processes.restarts():
        earlier = mark.is_file() and mark.read_text(encoding="utf-8") == _generation(folder)
        return (resume, overwrite) if earlier else (True, False)
    if processes.is_launched() and processes.is_first():
        replaced(folder)
        if overwrite and (found := _generation(folder)):
            mark.write_text(found, encoding="utf-8")
    return resume, overwrite


def replaced(folder: Path) -> None:
    """The checkpoint in the folder is this run's."""
    _mark(folder).unlink(missing_ok=True)


def _mark(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.overwritten")


def _generation(folder: Path) -> str:
    """The name of the save in a folder, "" where there is none."""
    try:
        return str(checkpoint.load(folder).generation) if checkpoint.exists(folder) else ""
    except (ValueError, OSError):
        return "damaged"


def resume(
    folder: Path,
    model: VLAE,
    optimizer: torch.optim.Optimizer,
    average: Average | None,
    objective: Objective,
    description: dict[str, Any],
) -> tuple[History, int]:
    """Puts the weights, their average, the optimizer's and the objective's state back.

    Returns:
        the history, and how many processes there were.
    """
    found = checkpoint.load(folder)
    # a setting that came later has in an older checkpoint the value by which that run was trained
    earlier = asdict(Settings(path_derivative=False)) | found.training
    theirs, ours = {"model": found.model.config} | earlier, {"model": model.config} | description
    for key in ours | theirs:
        if key != "processes" and _plain(theirs.get(key)) != _plain(ours.get(key)):
            raise ValueError(f"resume: {key} must be that of {folder}, {theirs.get(key)!r}, got {ours.get(key)!r}")
    figures = FIGURES | ({"kl_weight"} if objective.soft else set())
    for row in found.history:
        if missing := sorted(figures - row.keys()):
            names, epoch = ", ".join(missing), row["epoch"]
            raise ValueError(f"resume: history must have every figure of every epoch, got no {names} of epoch {epoch}")
    trained = checkpoint.load_optimizer(found, optimizer, averaged=average is not None)
    model.load_state_dict(found.model.state_dict() | trained)
    if objective.soft is not None and found.history:
        objective.soft.gamma = found.history[-1]["kl_weight"]
    if average is not None:
        average.load(found.model.state_dict())
    return list(found.history), int(earlier.get("processes", 1))


def _plain(value: Any) -> Any:
    """Tuples come back from JSON as lists."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def saved(folder: Path, history: History, overwrite: bool) -> tuple[str, str]:
    """Says which files of this run are on disk, and how to go on."""
    first = "(the first checkpoint is written after epoch 1)"
    if not checkpoint.exists(folder):
        return f"nothing is saved yet {first}", "the same command starts again"
    if overwrite and not _is_of(folder, history):
        earlier = f"the earlier run in {folder} is still there, untouched"
        return f"nothing of this run is saved yet {first}, {earlier}", "the same command starts again and replaces it"
    flag = "--resume instead of --overwrite" if overwrite else "--resume"
    epoch = checkpoint.load(folder).epoch
    return f"the last good checkpoint is {folder}, epoch {epoch}", f"the same command with {flag} (resume=True) goes on"


def _is_of(folder: Path, history: History) -> bool:
    """True where the checkpoint belongs to the run of this history: no two runs took the same seconds."""
    try:
        found = checkpoint.load(folder)
    except (ValueError, OSError):  # an earlier run may be damaged, and that is why it is replaced
        return False
    return found.epoch > 0 and found.history == history[: found.epoch]
