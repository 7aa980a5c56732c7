"""The step of the mean code, chosen on training images: bytes an image by share of the posterior's standard deviation.

`python -m benchmarks.codec_share --data FOLDER` encodes training images of MNIST at each share and writes a row for
each; the test images have no part in it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from vlae_fast import checkpoint, codec, data

from .codec_rows import rows_to

FIELDS = ("data", "binarization", "split", "images", "share", "bytes", "bytes_per_image")
SHARES = (2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with MNIST's files")
    parser.add_argument("--binarization", default="dynamic", choices=["dynamic", "threshold"])
    parser.add_argument("--images", type=int, default=10_000, help="the first so many of the training split")
    parser.add_argument("--share", type=float, nargs="+", default=SHARES)
    parser.add_argument("--out", type=Path, default=Path("out/codec_share.csv"))
    options = parser.parse_args()
    images = data.load("mnist", options.data, options.binarization)
    batches = images.batches("train", 1000, generator=torch.Generator().manual_seed(0))
    x = torch.cat([batch for batch, _ in zip(batches, range(-(-options.images // 1000)), strict=False)])
    x, model = x[: options.images], checkpoint.load(checkpoint.MNIST).model
    with rows_to(options.out, FIELDS) as write:
        for share in options.share:
            size = len(codec.encode(model, x, share=share))
            write({
                "data": "mnist", "binarization": options.binarization, "split": "train", "images": len(x),
                "share": share, "bytes": size, "bytes_per_image": f"{size / len(x):.4f}",
            })  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
