"""A small data set, a model trained on it, and the commands that draw pictures of it."""

from pathlib import Path
from typing import Any

import torch

from vlae_fast import VLAE, data, training

SIZE = (8, 8)


def small_images(
    name: str | None = None, folder: object = None, binarization: str | None = None, **_: object
) -> data.Images:
    """60 / 12 / 12 images of 8x8 in three classes, a bar in a place of its own each."""
    generator = torch.Generator().manual_seed(0)
    parts, labels = {}, {}
    for split, n in (("train", 60), ("valid", 12), ("test", 12)):
        labels[split] = torch.arange(n) % 3
        grey = torch.randint(0, 60, (n, 1, *SIZE), dtype=torch.uint8, generator=generator)
        for row, label in enumerate(labels[split].tolist()):
            grey[row, :, :, 2 * label : 2 * label + 2] = 255
        parts[split] = grey
    return data.Images("digits", **parts, split="60/12/12", binarization=binarization or "threshold", labels=labels)


def trained(folder: Path, latent_dim: int) -> Path:
    torch.manual_seed(0)
    model = VLAE(1, latent_dim, 4, 1, image_size=SIZE, flow_hidden=8, initial_kernel=3)
    training.train(model, small_images(), epochs=2, batch_size=20, out_dir=folder, progress=False)
    return folder / "checkpoint"


def call(*arguments: object, env: dict[str, str] | None = None) -> Any:
    """Runs the command line with these words, and env in its environment; gives its exit code, output and errors."""
    from typer.testing import CliRunner

    from vlae_fast import commands

    return CliRunner().invoke(commands.app, [str(a) for a in arguments], env=env)


PICTURES: dict[str, tuple[list[object], str]] = {
    "reconstruct": (["-n", 3, "--draws", 2], r"3 images, 2 draws each"),
    "complete": (["-n", 2, "--rounds", 1], r"2 images completed from their first 4 rows, 5 draws each"),
    "denoise": (["-n", 2, "--draws", 3], r"mean squared error 0\.\d+ with noise, 0\.\d+ after"),
    "traverse": (["--dims", 2, "--steps", 3], r"2 dimensions, 3 values each"),
    "interpolate": (["-n", 2, "--steps", 4], r"2 pairs, 4 images each"),
    "embed": ([], r"12 codes"),
    "heatmap": (["-n", 9], r"9 images, 4 dimensions"),
    "detect": (["--held-out", 2, "--top", 0], r"digits against class 2: AUC \d\.\d+; threshold \d+\.\d+ nats/image"),
    "evaluate": ([], r"nats/image"),
}
