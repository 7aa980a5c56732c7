"""Rate and distortion of lossy files: bits an image, wrong pixels, and digits that a classifier still reads.

`python -m benchmarks.lossy --data FOLDER` encodes test images at several rates and decodes them each way. The
classifier is trained on training images, binarized with the same seed; its accuracy on the originals is a row. The rows
of the grid `one step` have one step for all dimensions in place of a share of each one's deviation. `--picture FILE`
draws originals and decoded images. A folder of the data set is asked for: nothing is downloaded.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlae_fast import VLAE, PixelCNNSampler, checkpoint, codec, data
from vlae_fast.codec import lossy
from vlae_fast.codec.codes import posterior_of

from .codec_rows import parser_of, rows_to

FIELDS = ("data", "binarization", "grid", "bits_asked", "bits_of_z", "bytes_per_image", "pixels", "images",
          "wrong_pixels", "accuracy")  # fmt: skip
BITS = (2.5, 5.0, 10.0, 20.0, 40.0)
SHOWN = (40.0, 20.0, 10.0, 5.0)  # rates of the picture
EPOCHS, BATCH = 2, 128


def classifier(images: data.Images, seed: int = 0) -> nn.Module:
    """A small network of two convolutions, trained on the training images."""
    torch.manual_seed(seed)
    side = [-(-n // 4) for n in images.image_size]
    network = nn.Sequential(
        nn.Conv2d(images.channels, 16, 5, 2, 2), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(32 * side[0] * side[1], 128), nn.ReLU(), nn.Linear(128, images.n_classes),
    )  # fmt: skip
    optimizer, generator = torch.optim.Adam(network.parameters(), 2e-3), torch.Generator().manual_seed(seed)
    for _ in range(EPOCHS):
        for x, labels in images.labelled_batches("train", BATCH, generator=generator, shuffle=True):
            optimizer.zero_grad()
            F.cross_entropy(network(x), labels).backward()
            optimizer.step()
    return network.eval()


@torch.no_grad()
def distortion(found: Tensor, x: Tensor, labels: Tensor, network: nn.Module, levels: int) -> dict[str, Any]:
    """Share of wrong pixels, a mean counting as the level that is nearest, and of the labels that are read."""
    wrong = ((found - x).abs() > 0.5 / (levels - 1)).float().mean().item()
    right = (network(found).argmax(1) == labels).float().mean().item()
    return {"images": len(x), "wrong_pixels": f"{wrong:.5f}", "accuracy": f"{right:.4f}"}


def of_files(model: VLAE, x: Tensor, bits: float) -> Iterator[tuple[dict[str, Any], Tensor]]:
    """Decoded images of a file of a rate, each way."""
    written = codec.encode(model, x, mode="lossy", bits=bits)
    file = codec.File(written)
    taken = sum(8 * size for size, _, _ in file.table)
    for way in lossy.PIXELS:
        own = {"bits_of_z": f"{taken / len(x):.2f}", "bytes_per_image": f"{len(written) / len(x):.3f}", "pixels": way}
        yield {"grid": "deviation", "bits_asked": bits, **own}, codec.decode(model, written, pixels=way)


def of_one_step(model: VLAE, x: Tensor, bits: float) -> tuple[dict[str, Any], Tensor]:
    """The likeliest pixels of codes on a grid of one step, the finest of at most so many bits."""
    sampler, mu = PixelCNNSampler(model.decoder, backend="cpu"), posterior_of(model, x).mu

    def code(step: int) -> lossy.Code:
        return lossy.Code(model, str(sampler.isa), [step] * model.latent_dim)

    def fits(step: int) -> bool:
        return code(step).bits(code(step).levels_of(mu)) <= bits * len(x)

    found = code(lossy.first_that(fits, 8 * (16 - 4), 8 * (16 + 4)))  # steps from 1/16 to 16
    levels = found.levels_of(mu)
    images = lossy.images_of(sampler, found.z_of(levels), 0, "likeliest", (x.shape[1], x.shape[2], x.shape[3]))
    own = {"bits_of_z": f"{found.bits(levels) / len(x):.2f}", "pixels": "likeliest"}
    return {"grid": "one step", "bits_asked": bits, **own}, images


def draw_picture(model: VLAE, x: Tensor, labels: Tensor, out: Path) -> None:
    """Originals, an image of each class, above what is decoded at each rate, each way."""
    import matplotlib.pyplot as plt

    places = [int((labels == c).nonzero()[0]) for c in labels.unique()]
    figure, panels = plt.subplots(1, len(lossy.PIXELS), figsize=(15, 2.9), layout="constrained")
    whole = [codec.encode(model, x, mode="lossy", bits=bits) for bits in SHOWN]
    for panel, way in zip(panels, lossy.PIXELS, strict=True):
        rows = [x[places], *(codec.decode(model, file, pixels=way)[places] for file in whole)]
        grid = torch.cat([torch.cat(list(F.pad(row[:, 0], (1, 1, 1, 1), value=0.5)), 1) for row in rows])
        panel.imshow(1 - grid, cmap="gray", vmin=0, vmax=1)
        panel.set_yticks(
            [(i + 0.5) * (x.shape[2] + 2) for i in range(len(rows))],
            ["original", *(f"{bits:.0f} bits" for bits in SHOWN)],
        )
        panel.set_xticks([])
        panel.set_title(way)
    figure.savefig(out, dpi=100)


def main() -> int:
    parser = parser_of(__doc__, "out/lossy.csv", name="data set with labels", limit=1000)
    parser.add_argument("--bits", type=float, nargs="+", default=BITS)
    parser.add_argument("--picture", type=Path, help="where the picture is drawn, in place of the rows")
    options = parser.parse_args()
    images, model = data.load(options.name, options.data, options.binarization), checkpoint.load(options.model).model
    model.eval()
    batches = images.labelled_batches("test", 1000, generator=torch.Generator().manual_seed(0))
    x, labels = (torch.cat(parts)[: options.limit] for parts in zip(*batches, strict=True))
    if options.picture:
        draw_picture(model, x, labels, options.picture)
        return 0
    network, what = classifier(images), {"data": options.name, "binarization": options.binarization}
    with rows_to(options.out, FIELDS) as write_row:

        def write(row: dict[str, Any], found: Tensor) -> None:
            write_row({**what, **row, **distortion(found, x, labels, network, model.likelihood.levels)})

        write({"grid": "originals"}, x)
        for bits in options.bits:
            for row, found in of_files(model, x, bits):
                write(row, found)
            write(*of_one_step(model, x, bits))
    return 0


if __name__ == "__main__":
    sys.exit(main())
