"""Bytes an image and images a second of the codec, on test images: MNIST's by the model that ships, or others.

`python -m benchmarks.codec --data FOLDER` encodes and decodes them, and writes a row for each mode once every pixel was
found again. A folder of the data set is asked for: nothing is downloaded. Other coders: `benchmarks.other_coders`;
lossy files: `benchmarks.lossy`.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import torch

from vlae_fast import VLAE, checkpoint, codec
from vlae_fast.codec import portable
from vlae_fast.codec.coder import LOSSLESS

from .codec_rows import parser_of, rows_to, test_images

FIELDS = ("data", "binarization", "mode", "isa", "images", "per_chunk", "bytes", "bytes_per_image", "encode_per_s",
          "decode_per_s", "pixels_wrong")  # fmt: skip


def row(
    model: VLAE, x: torch.Tensor, mode: str, isa: str | None, narrow: bool = False, timed: bool = True
) -> dict[str, object]:
    """Bytes and rates of one mode; pixels_wrong is counted. narrow: portable files are decoded by `baseline`."""
    start = time.perf_counter()
    how: Any = {"portable": True} if isa == "portable" else {"isa": isa}
    file = codec.encode(model, x, mode=mode, **how)
    portable.WIDE = "none" if narrow else portable.WIDE
    between = time.perf_counter()
    wrong = int((codec.decode(model, file) != x).sum())
    end = time.perf_counter()
    header = codec.File(file).header
    encoded, decoded = (f"{len(x) / took:.1f}" if timed else "" for took in (between - start, end - between))
    return {
        "mode": mode, "isa": header.isa, "images": len(x), "per_chunk": header.per_chunk, "bytes": len(file),
        "bytes_per_image": f"{len(file) / len(x):.4f}", "encode_per_s": encoded, "decode_per_s": decoded,
        "pixels_wrong": wrong,
    }  # fmt: skip


def main() -> int:
    parser = parser_of(__doc__, "out/codec.csv")
    parser.add_argument("--mode", nargs="+", choices=LOSSLESS, default=LOSSLESS)
    parser.add_argument("--isa", help="or portable; default: the best of this machine")
    parser.add_argument("--narrow", action="store_true", help="decode portable files by the kernels baseline")
    parser.add_argument("--untimed", action="store_true", help="no rates: for a machine that does other work too")
    options = parser.parse_args()
    x, model = test_images(options), checkpoint.load(options.model).model
    with rows_to(options.out, FIELDS) as write:
        for mode in options.mode:
            found = row(model, x, mode, options.isa, options.narrow, not options.untimed)
            write({"data": options.name, "binarization": options.binarization, **found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
