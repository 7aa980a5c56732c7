"""Bytes an image and images a second of the codec, on test images: MNIST's by the model that ships, or others.

`python -m benchmarks.codec --data FOLDER` encodes and decodes them, and writes a row for each mode once every pixel was
found again. A folder of the data set is asked for: nothing is downloaded. Other coders: `benchmarks.other_coders`;
lossy files: `benchmarks.lossy`.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from pathlib import Path
from typing import Any

import torch

from vlae_fast import VLAE, checkpoint, codec, data
from vlae_fast.codec import portable
from vlae_fast.codec.coder import LOSSLESS

FIELDS = ("data", "binarization", "mode", "isa", "images", "per_chunk", "bytes", "bytes_per_image", "encode_per_s",
          "decode_per_s", "pixels_wrong")  # fmt: skip


def row(model: VLAE, x: torch.Tensor, mode: str, isa: str | None, narrow: bool = False) -> dict[str, object]:
    """Bytes and rates of one mode; pixels_wrong is counted. narrow: portable files are decoded by `baseline`."""
    start = time.perf_counter()
    how: Any = {"portable": True} if isa == "portable" else {"isa": isa}
    file = codec.encode(model, x, mode=mode, **how)
    portable.WIDE = "none" if narrow else portable.WIDE
    between = time.perf_counter()
    wrong = int((codec.decode(model, file) != x).sum())
    end = time.perf_counter()
    header = codec.File(file).header
    return {
        "mode": mode, "isa": header.isa, "images": len(x), "per_chunk": header.per_chunk, "bytes": len(file),
        "bytes_per_image": f"{len(file) / len(x):.4f}", "encode_per_s": f"{len(x) / (between - start):.1f}",
        "decode_per_s": f"{len(x) / (end - between):.1f}", "pixels_wrong": wrong,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with the data set's files")
    parser.add_argument("--name", default="mnist", help="data set")
    parser.add_argument("--model", type=Path, default=checkpoint.MNIST, help="checkpoint folder")
    parser.add_argument("--binarization", default="dynamic", choices=["dynamic", "threshold", "fixed", "none"])
    parser.add_argument("--mode", nargs="+", choices=LOSSLESS, default=LOSSLESS)
    parser.add_argument("--limit", type=int, help="only the first so many images")
    parser.add_argument("--isa", help="or portable; default: the best of this machine")
    parser.add_argument("--narrow", action="store_true", help="decode portable files by the kernels baseline")
    parser.add_argument("--out", type=Path, default=Path("out/codec.csv"))
    options = parser.parse_args()
    images = data.load(options.name, options.data, options.binarization)
    batches = images.batches("test", 1000, generator=torch.Generator().manual_seed(0))
    x, model = torch.cat(list(batches))[: options.limit], checkpoint.load(options.model).model
    options.out.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for mode in options.mode:
        found = row(model, x, mode, options.isa, options.narrow)
        rows.append({"data": options.name, "binarization": options.binarization, **found})
        print(rows[-1], flush=True)
    with options.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows)
    return int(any(r["pixels_wrong"] for r in rows))


if __name__ == "__main__":
    sys.exit(main())
