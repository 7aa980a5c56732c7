"""Minutes that an epoch of each recipe takes: one epoch over some of the images, scaled to all of them.

    python -m benchmarks.epochs --data DIR --images 1280

Without the files of a data set in DIR its recipe is passed over, with a line that says so.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path

import torch

from vlae_fast import data, training
from vlae_fast.models import PRESETS, preset

from .recipes import found

_OF_ALL = {"cifar10": 45_000}  # training images, where DIR may have a cut


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the files of the data sets")
    parser.add_argument("--images", type=int, default=1280, help="of the training split, timed")
    parser.add_argument("--presets", default="", help="names with commas between them; default: every recipe")
    options = parser.parse_args()
    training.keep_freed_memory()
    print(f"{torch.get_num_threads()} threads")
    for name, images in found(options.presets, options.data):
        of_all = _OF_ALL.get(name, len(images.train))
        seconds = seconds_of(name, images, options.images)
        rate = options.images / seconds
        print(
            f"{name}: {rate:.0f} images/s, {of_all / rate / 60:.1f} minutes for {of_all:,} images",
            flush=True,
        )


def seconds_of(name: str, images: data.Images, n: int) -> float:
    """Seconds of the second epoch over n images."""
    images = repeated(images, n)
    model = preset(name, input_dim=images.channels, image_size=images.image_size)
    settings = {**PRESETS[name].settings, "warmup_epochs": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        history = training.train(model, images, epochs=2, out_dir=folder, progress=False, **settings)
    return history[-1]["seconds"]


def repeated(images: data.Images, n: int) -> data.Images:
    """n training images, again and again those there are where they are fewer, and one batch to validate."""
    times = -(-n // len(images.train))
    return dataclasses.replace(
        images, train=images.train.repeat(times, 1, 1, 1)[:n], valid=images.valid[:64], labels=None
    )


if __name__ == "__main__":
    main()
