"""Logs of a run beside its checkpoint: a table, or what TensorBoard shows; of the whole run where it is resumed."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Collection
from pathlib import Path

from .._extras import require
from .progress import History

Log = Callable[[History], None]  # is given the history after each epoch


def make_logs(names: Collection[str], out_dir: Path, epoch: int) -> list[Log]:
    """The logs of these names, of a run that goes on after `epoch`."""
    return [LOGS[name](out_dir, epoch) for name in dict.fromkeys(names)]


def check_logs(names: Collection[str]) -> None:
    """Raises ValueError for another name than those in ``LOGS``, MissingExtraError where a package is missing."""
    if unknown := [name for name in names if name not in LOGS]:
        raise ValueError(f"log: must be some of {', '.join(LOGS)}, got {unknown[0]!r}")
    if "tensorboard" in names:
        require("tensorboard")


def _csv(out_dir: Path, epoch: int) -> Log:
    """out_dir/log.csv: a row an epoch, a column a figure; written anew after each, so that it is always whole."""
    path = out_dir / "log.csv"

    def write(history: History) -> None:
        columns = dict.fromkeys(key for row in history for key in row)
        fresh = path.with_name(f".{path.name}.{os.getpid()}.incomplete")
        with fresh.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(columns), restval="", lineterminator="\n")
            table.writeheader()
            table.writerows(history)
        os.replace(fresh, path)

    return write


def _tensorboard(out_dir: Path, epoch: int) -> Log:
    """out_dir/tensorboard: a curve a figure, by epoch; what an interrupted run wrote of later epochs is taken back."""
    writer = require("torch.utils.tensorboard").SummaryWriter(out_dir / "tensorboard", purge_step=epoch + 1)

    def write(history: History) -> None:
        for name, value in history[-1].items():
            figure = name.removeprefix("valid_")
            if name != "epoch":
                part = "train" if figure == name else "valid"
                writer.add_scalar(f"{part}/{figure}", value, int(history[-1]["epoch"]))
        writer.flush()

    return write


LOGS = {"csv": _csv, "tensorboard": _tensorboard}
