"""Data sets that Python code gives: a name in a module of one's own, a class of torchvision."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from pathlib import Path
from typing import Any

from .._extras import require
from .images import Images
from .own import from_dataset

_TORCHVISION = "torchvision"
_SPLITS = {"train": ("train",), "valid": ("valid", "val"), "test": ("test",)}


def imported(name: str, data_dir: str | Path | None, binarization: str | None) -> Images:
    """The data set ``module:name``, of torchvision or of a module that Python finds, the folder of the call included.

    ``module:name`` is an `Images`, what `from_dataset` takes, a tuple or dict of splits of it, or a function or class
    without arguments that gives one of these. ``torchvision:SVHN`` is a class of ``torchvision.datasets``, whose files
    lie in `data_dir`, or are downloaded into the cache where it is None. Two splits in a tuple are (train, test), as
    Keras gives ((x, y), (x, y)); three are (train, valid, test).

    Raises:
        ValueError: the module has no such name, or it is a tuple of another number of splits.
        ImportError: there is no such module.
    """
    module, _, attribute = name.partition(":")
    if module == _TORCHVISION:
        return _of_torchvision(name, attribute, data_dir, binarization)
    if data_dir is not None:
        raise ValueError(f"data: {name} takes no data_dir, got {str(data_dir)!r}")
    found = _attribute(_import(module, name), attribute, name)
    if isinstance(found, type) or (callable(found) and not hasattr(found, "__getitem__")):
        found = found()
    if isinstance(found, Images):
        return found
    if isinstance(found, dict) and "train" in found:
        return from_dataset(**found, name=attribute, binarization=binarization)
    if isinstance(found, tuple) and not (found and hasattr(found[0], "shape")):
        found = dict(zip(_in_order(len(found), name), found, strict=True))
        return from_dataset(**found, name=attribute, binarization=binarization)
    return from_dataset(found, name=attribute, binarization=binarization)


def _in_order(n: int, name: str) -> tuple[str, ...]:
    """The splits of a tuple of n."""
    orders = {1: ("train",), 2: ("train", "test"), 3: ("train", "valid", "test")}
    if n not in orders:
        raise ValueError(f"data: {name} must be (train, test) or (train, valid, test) where it is a tuple, got {n}")
    return orders[n]


def _import(module: str, name: str) -> Any:
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(f"data: {name}: {error}") from error
    finally:
        sys.path.remove(here)


def _attribute(module: Any, attribute: str, name: str) -> Any:
    found = getattr(module, attribute, None) if attribute else None
    if found is None:
        raise ValueError(f"data: must be module:name with a name that the module has, got {name!r}")
    return found


def _of_torchvision(name: str, kind: str, data_dir: str | Path | None, binarization: str | None) -> Images:
    cls = _attribute(require("torchvision.datasets"), kind, name)
    taken = inspect.signature(cls).parameters
    download = {"download": data_dir is None} if "download" in taken else {}
    root = str(data_dir or Path(require("pooch").os_cache("vlae_fast")) / "torchvision")
    parts: dict[str, Any] = {}
    for split, spellings in _SPLITS.items():
        if "train" in taken:
            if split != "valid":
                parts[split] = cls(root, train=split == "train", **download)
        elif "split" in taken:
            for spelling in spellings:
                try:
                    parts[split] = cls(root, split=spelling, **download)
                    break
                except ValueError:  # it has no such split
                    if split == "train":
                        raise
        elif split == "train":
            parts[split] = cls(root, **download)
    return from_dataset(**parts, name=kind.lower(), binarization=binarization)
