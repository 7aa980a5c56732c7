"""Files that several processes of one run need: the first one makes them."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time goes on with what is in this folder; the others wait."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:  # freed with the process, however it ends
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def shared_folder(factory: pytest.TempPathFactory, name: str) -> Path:
    """A temporary folder of this run, the same in every worker of pytest-xdist."""
    base = factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
