"""Figures of images by number: in memory, and in the files of a folder, from which an evaluation goes on.

index.json     what the figures are of
part-0.bin     of the process of rank 0: (image, nats), as int64 and float64, little-endian, in the order of the work
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from .. import processes
from ..data.begun import begun, write_index

_RECORD = np.dtype([("image", "<i8"), ("nats", "<f8")])


class Records:
    """Nats of images by number, of which every process adds its own and gets all.

    Args:
        what: decides every figure: a folder with figures of anything else is refused.
        folder: keeps them, each when it is added; None: they are in memory alone.
        shared: of several processes, all of which make this.

    ``.before`` are the images that were kept in the beginning, the same in every process.
    """

    def __init__(self, what: dict[str, Any], folder: Path | None, *, shared: bool) -> None:
        self.count, self.rank = processes.place(shared)
        self.nats: dict[int, float] = {}
        self._file: BinaryIO | None = None
        if self.count > 1:
            processes.check_same(what)
        if folder is not None:
            if self.rank == 0:
                _open(folder, what)
                self.nats = _read(folder)
            if self.count > 1:
                self.nats = processes.from_first(self.nats)
            self._file = _appending(folder / f"part-{self.rank}.bin")
        self.before = frozenset(self.nats)

    def add(self, first: int, nats: Tensor) -> None:
        """Takes nats ``[n]`` of the images from the number `first` on."""
        self.nats |= {first + i: value for i, value in enumerate(nats.tolist())}
        if self._file is not None:
            rows = np.array([(first + i, value) for i, value in enumerate(nats.tolist())], _RECORD)
            self._file.write(rows.tobytes())
            self._file.flush()

    def mean(self) -> tuple[float, float]:
        """The mean of what this process knows, and its standard error, over images."""
        return mean_and_error(torch.tensor([self.nats[i] for i in sorted(self.nats)], dtype=torch.float64))

    def all(self) -> Tensor:
        """The nats of every image of all processes, in the order of the numbers, float64."""
        self.close()
        found = self.nats
        if self.count > 1:
            found = {image: value for part in processes.in_each(self.nats) for image, value in part.items()}
        return torch.tensor([found[image] for image in sorted(found)], dtype=torch.float64)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def mean_and_error(nats: Tensor) -> tuple[float, float]:
    """The mean of nats ``[N]``, and the standard error of it over images."""
    return nats.mean().item(), nats.std(correction=0).item() / math.sqrt(len(nats))


def _open(folder: Path, what: dict[str, Any]) -> None:
    what = {"format": "vlae_fast.records", "version": 1, **what}
    if not begun(folder, what, argument="keep", holds="figures"):
        write_index(folder, what)


def _read(folder: Path) -> dict[int, float]:
    """The figures of all parts, without the record that a killed process may have begun."""
    found: dict[int, float] = {}
    for path in sorted(folder.glob("part-*.bin")):
        data = path.read_bytes()
        rows = np.frombuffer(data[: len(data) // _RECORD.itemsize * _RECORD.itemsize], _RECORD)
        found |= dict(zip(rows["image"].tolist(), rows["nats"].tolist(), strict=True))
    return found


def _appending(path: Path) -> BinaryIO:
    """The file, to add whole records to."""
    file = path.open("ab")
    file.truncate(file.tell() // _RECORD.itemsize * _RECORD.itemsize)
    return file
