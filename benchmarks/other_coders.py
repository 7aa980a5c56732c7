"""Bytes an image of general coders, on the test images that `benchmarks.codec` codes.

`python -m benchmarks.other_coders --data FOLDER` writes a row for each: nothing of it is lossy. One file each: PNG and
lossless WebP by Pillow, and of a CCITT group 4 TIFF the strip alone. All images in one file: zstd, xz and bz2 at their
highest levels, of a bit or a byte a pixel, whichever is smaller. `context16` is no coder but the least that one may
take which learns, as it goes, how often a pixel is white after 16 neighbours, those of JBIG2's first template. `elbo`
is that of the model, one draw of z an image. Pillow and zstandard are in the extra `bench`.
"""

from __future__ import annotations

import bz2
import io
import lzma
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vlae_fast import VLAE, checkpoint

from .codec_rows import parser_of, rows_to, test_images

Pixels = NDArray[np.uint8]  # [N, H, W], 0 and 1, or 0 to 255
FIELDS = ("data", "binarization", "coder", "images", "bytes_per_image")
_STRIP_BYTES = 279  # TIFF's tag of the bytes of a strip
_AROUND = [(-2, dx) for dx in range(-2, 3)] + [(-1, dx) for dx in range(-3, 4)] + [(0, dx) for dx in range(-4, 0)]


def picture(pixels: Pixels) -> Any:
    """One image ``[H, W]`` as Pillow has it: of a bit a pixel where it is black and white."""
    from PIL import Image

    return Image.fromarray(pixels.astype(bool)) if pixels.max() <= 1 else Image.fromarray(pixels)


def saved(pixels: Pixels, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture(pixels).save(file, form, **options)
    return file.getvalue()


def strip_of_group4(pixels: Pixels) -> int:
    """Bytes of the strip of a TIFF, without its directory."""
    from PIL import Image

    with Image.open(io.BytesIO(saved(pixels, "TIFF", compression="group4"))) as found:
        return sum(found.tag_v2[_STRIP_BYTES])


def of_one_file(compress: Callable[[bytes], bytes], images: Pixels) -> int:
    packed = [np.packbits(images.reshape(len(images), -1), axis=1)] if images.max() <= 1 else []
    return min(len(compress(part.tobytes())) for part in [images, *packed])


def zstd(raw: bytes) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor(level=22).compress(raw)


def xz(raw: bytes) -> bytes:
    return lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME)


def context16(images: Pixels) -> float:
    """Bits of all pixels by counts of a half more of each, which add up in any order to a quotient of Beta functions.

    Source: Krichevsky and Trofimov 1981; ITU-T T.88, figure 3.
    """
    _, height, width = images.shape
    padded = np.pad(images, ((0, 0), (2, 0), (4, 4)))
    context = np.zeros(images.shape, np.int64)
    for dy, dx in _AROUND:
        context = 2 * context + padded[:, 2 + dy : 2 + dy + height, 4 + dx : 4 + dx + width]
    counts = torch.from_numpy(np.bincount((2 * context + images).reshape(-1), minlength=2 << len(_AROUND)))
    zeros, ones = counts.double().view(-1, 2).T
    half = torch.tensor(0.5, dtype=torch.float64)
    nats = torch.lgamma(zeros + ones + 1) - torch.lgamma(zeros + 0.5) - torch.lgamma(ones + 0.5) + 2 * half.lgamma()
    return float(nats.sum()) / math.log(2)


@torch.no_grad()
def elbo(model: VLAE, x: Tensor) -> float:
    """Bits of all images: the negative ELBO, one draw of z each, with seed 0."""
    generator, nats = torch.Generator().manual_seed(0), 0.0
    for batch in x.split(500):
        noise = torch.randn(len(batch), model.latent_dim, generator=generator)
        terms = model.loss_terms(batch, noise=noise)
        nats += float((terms.reconstruction + terms.kl).double().sum())
    return nats / math.log(2)


def rows(images: Pixels) -> dict[str, Callable[[], float]]:
    """Bytes of all images, by coder."""
    binary = images.max() <= 1
    found: dict[str, Callable[[], float]] = {
        "packed": lambda: images.size / (8 if binary else 1),
        "png": lambda: sum(len(saved(one, "PNG", optimize=True)) for one in images),
        "webp": lambda: sum(len(saved(one, "WEBP", lossless=True, quality=100, method=6)) for one in images),
        "zstd": lambda: of_one_file(zstd, images),
        "xz": lambda: of_one_file(xz, images),
        "bz2": lambda: of_one_file(bz2.compress, images),
    }
    if binary:
        found["group4"] = lambda: sum(map(strip_of_group4, images))
        found["context16"] = lambda: context16(images) / 8
    return found


def main() -> int:
    parser = parser_of(__doc__, "out/other_coders.csv", name="data set, of one channel")
    options = parser.parse_args()
    x = test_images(options)
    if x.shape[1] != 1:
        parser.error(f"--name: must be of images of one channel, got {x.shape[1]}")
    top, model = 1 if options.binarization != "none" else 255, checkpoint.load(options.model).model.eval()
    images = (x[:, 0] * top).round().to(torch.uint8).numpy()
    coders = {**rows(images), "elbo": lambda: elbo(model, x) / 8}
    with rows_to(options.out, FIELDS) as write:
        for coder, of in coders.items():
            row = {"data": options.name, "binarization": options.binarization, "coder": coder, "images": len(x)}
            write({**row, "bytes_per_image": f"{of() / len(x):.3f}"})
    return 0


if __name__ == "__main__":
    sys.exit(main())
