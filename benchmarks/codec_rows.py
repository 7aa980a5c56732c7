"""Shared by the benchmarks of the codec: their options, the test images, and the file of their rows."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlae_fast import checkpoint, data


def parser_of(
    about: str | None, out: str, *, name: str = "data set", limit: int | None = None
) -> argparse.ArgumentParser:
    """The options that say which images and which model. out: default of the file of rows. name: help of --name."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--data", type=Path, required=True, help="folder with the data set's files")
    parser.add_argument("--name", default="mnist", help=name)
    parser.add_argument("--model", type=Path, default=checkpoint.MNIST, help="checkpoint folder")
    parser.add_argument("--binarization", default="dynamic", choices=["dynamic", "threshold", "fixed", "none"])
    parser.add_argument("--limit", type=int, default=limit, help="only the first so many test images")
    parser.add_argument("--out", type=Path, default=Path(out))
    return parser


def test_images(options: argparse.Namespace) -> Tensor:
    """``[N, C, H, W]``, binarized with seed 0."""
    images = data.load(options.name, options.data, options.binarization)
    batches = images.batches("test", 1000, generator=torch.Generator().manual_seed(0))
    return torch.cat(list(batches))[: options.limit]


@contextmanager
def rows_to(path: Path, fields: Sequence[str]) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """What writes a row to a CSV file, which begins with the names of its columns, and prints it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fields)
        writer.writeheader()

        def write(row: Mapping[str, Any]) -> None:
            print(row, flush=True)
            writer.writerow(row)
            file.flush()

        yield write
