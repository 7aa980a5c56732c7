"""A folder whose files one call writes, and the same call goes on with: its index.json says which call that was."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

INDEX = "index.json"


def begun(folder: Path, what: dict[str, Any], *, argument: str, holds: str) -> bool:
    """Makes the folder; True where it has the index of a call of which everything in `what` is the same.

    argument: the name of the folder, and holds: that of what is in it, in errors.

    Raises:
        ValueError: it is a file, holds what another call began, or other files.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise ValueError(f"{argument}: must be a folder for files of {holds}, got the file {folder}") from None
    index = folder / INDEX
    if index.is_file():
        try:
            found = json.loads(index.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{argument}: {index} is no index of {holds}: {error}") from error
        for name, value in what.items():
            if not isinstance(found, dict) or found.get(name) != value:
                theirs = found.get(name) if isinstance(found, dict) else found
                raise ValueError(
                    f"{argument}: {folder} has {holds} of another {name}, {theirs!r:.80}, got {value!r:.80}"
                )
        return True
    if any(folder.iterdir()):
        raise ValueError(f"{argument}: {folder} must be empty, or hold {holds} that were begun, got other files in it")
    return False


def write_index(folder: Path, index: dict[str, Any]) -> None:
    """Replaces the folder's index."""
    fresh = folder / f".{INDEX}.incomplete"
    fresh.write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    os.replace(fresh, folder / INDEX)
