"""Writing to a disk that fails: the n-th change to it raises, with half of what it wrote on it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ERRORS = {"no space": errno.ENOSPC, "broken": errno.EIO}
Place = tuple[Any, str]  # a module or a class, and the function of it that writes


def count_changes(monkeypatch: pytest.MonkeyPatch, places: tuple[Place, ...], work: Callable[[], object]) -> list[str]:
    """Names of the changes that `work` makes, in turn."""
    done: list[str] = []
    fail(monkeypatch, places, work, -1, 0, done)
    return done


def fail(
    monkeypatch: pytest.MonkeyPatch,
    places: tuple[Place, ...],
    work: Callable[[], object],
    number: int,
    code: int,
    done: list[str] | None = None,
) -> None:
    """Runs `work`; its change of that number, from 0, is an OSError."""
    names: list[str] = [] if done is None else done

    def counted(name: str, function: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            names.append(name)
            if len(names) - 1 != number:
                return function(*args, **kwargs)
            if name in ("save_file", "write_text", "imsave"):  # of the arguments one is the file
                function(*args, **kwargs)
                file = next(a for a in args if isinstance(a, Path))
                os.truncate(file, file.stat().st_size // 2)
            raise OSError(code, os.strerror(code))

        return wrapped

    with monkeypatch.context() as patch:
        for module, name in places:
            patch.setattr(module, name, counted(name, getattr(module, name)))
        work()
