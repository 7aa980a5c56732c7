"""Many images, drawn into the files of a folder by one process or several.

index.json           the images' number, shape, levels and seed, the files in their order, whether all are there
shard-00000.npz      images [n, C, H, W] of the numbers from 0 on: levels k of k / (levels - 1), as uint8, or uint16
                     of more than 256, else float32; labels [n] of a class-conditional model
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import processes
from .._extras import progress_bar
from ..data.begun import begun, write_index
from ..models.digest import digest_of
from ..models.vlae import VLAE
from .numbered import numbered_images

PER_SHARD = 1000
_AT_ONCE = 100  # on a CPU, where more images at once are no faster


class Drawn(NamedTuple):
    """What `draw_shards` did.

    images, shards: images of the folder, and files that they are in. drawn: images that were not there before. seconds:
    of this call.
    """

    images: int
    shards: int
    drawn: int
    seconds: float


def draw_shards(
    model: VLAE,
    folder: str | Path,
    n: int,
    *,
    seed: int = 0,
    per_shard: int = PER_SHARD,
    label: int | None = None,
    temperature: float = 1.0,
    mean: bool = False,
    backend: str = "auto",
    progress: bool = False,
) -> Drawn:
    """Draws n images into a folder: those of `numbered_images`, by their numbers from 0 on.

    Several processes (`vlae_fast.processes`) all call this and share the files, which have the same bytes whatever
    their number. A file that is there is not drawn again: after an interruption the same call goes on.

    Args:
        label: of a class-conditional model, whose images else have the classes in turn. mean, temperature: as in
            `numbered_images`. per_shard: images a file. backend: of the sampler.

    Raises:
        ValueError: the folder holds images of another call; processes with different arguments.
        OSError: a file cannot be written.
    """
    start, folder = time.perf_counter(), Path(folder)
    count, rank = processes.place(shared=True)
    if n < 1 or per_shard < 1:
        raise ValueError(f"n, per_shard: must be at least 1, got {n} and {per_shard}")
    index = _index(model, n, per_shard, seed=seed, label=label, temperature=temperature, mean=mean)
    processes.check_same(index)
    todo = processes.from_first(_prepare(folder, index) if rank == 0 else [])
    mine = todo[rank::count]
    sampler = model.sampler(backend) if mine else None
    with progress_bar(progress and rank == 0, desc="files", total=len(mine)) as bar:
        for name in mine:
            first = index["shards"].index(name) * per_shard
            parts = list(_drawn(model, first, min(first + per_shard, n), index, sampler))
            _write(folder / name, {key: np.concatenate([part[key] for part in parts]) for key in parts[0]})
            bar.update()
    processes.in_each(None)  # all have written
    if rank == 0:
        write_index(folder, index | {"complete": True})
    drawn = sum(min(per_shard, n - index["shards"].index(name) * per_shard) for name in todo)
    return Drawn(n, len(index["shards"]), drawn, time.perf_counter() - start)


def _index(model: VLAE, n: int, per_shard: int, **how: Any) -> dict[str, Any]:
    count = -(-n // per_shard)
    width = max(5, len(str(count - 1)))
    likelihood = model.likelihood
    return {
        "format": "vlae_fast.samples", "version": 1, "images": n, "per_shard": per_shard, **how,
        "shape": [likelihood.channels, *model.decoder.image_size], "model": digest_of(model.state_dict()),
        "levels": None if likelihood.is_density or how["mean"] else likelihood.levels or None,
        "shards": [f"shard-{i:0{width}}.npz" for i in range(count)],
    }  # fmt: skip


def _prepare(folder: Path, index: dict[str, Any]) -> list[str]:
    """Makes the folder, or checks that it is of this call; returns the files that are missing."""
    begun(folder, index, argument="out", holds="images")
    missing = [name for name in index["shards"] if not (folder / name).is_file()]
    if missing:
        write_index(folder, index | {"complete": False})
    return missing


def _drawn(model: VLAE, first: int, end: int, index: dict[str, Any], sampler: Any) -> Iterator[dict[str, np.ndarray]]:
    """The arrays of a file, batch by batch: each begins at the file's first image, whoever draws it."""
    device = next(model.parameters()).device
    at_once = end - first if device.type == "cuda" else _AT_ONCE
    for start in range(first, end, at_once):
        n, label = min(at_once, end - start), index["label"]
        labels = None
        if model.n_classes:
            labels = torch.arange(start, start + n) % model.n_classes if label is None else torch.full((n,), label)
        images = numbered_images(
            model, start, n, seed=index["seed"], labels=None if labels is None else labels.to(device),
            temperature=index["temperature"], mean=index["mean"], sampler=sampler,
        )  # fmt: skip
        found = {"images": _stored(images, index["levels"])}
        yield found if labels is None else found | {"labels": labels.numpy()}


def _stored(images: Tensor, levels: int | None) -> np.ndarray:
    if levels is None:
        return np.asarray(images.float().cpu().numpy())
    whole = (images.double() * (levels - 1)).round().cpu().numpy()
    return np.asarray(whole.astype(np.uint8 if levels <= 256 else np.uint16))


def _write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Whole or not at all."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}.incomplete")
    try:
        with fresh.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        os.replace(fresh, path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
