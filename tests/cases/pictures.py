"""What a PNG shows, and what a grid of images must."""

from pathlib import Path

import torch
from torch import Tensor

from vlae_fast.visualization import grid


def decoded(path: Path) -> Tensor:
    """Grey values from 0 to 1, ``[H, W]``; the three colours must be equal."""
    from matplotlib import image

    pixels = torch.from_numpy(image.imread(path))[..., :3]
    assert pixels[..., :1].expand_as(pixels).equal(pixels)
    return pixels[..., 0]


def assert_shows(path: Path, images: Tensor, columns: int) -> None:
    """The PNG at ``path`` is the grid of these images, each of its pixels drawn as a square."""
    want = grid(images, columns)[0]
    shown = decoded(path)
    scale = shown.shape[0] // want.shape[0]
    want = want.repeat_interleave(scale, 0).repeat_interleave(scale, 1)
    torch.testing.assert_close(shown, want, rtol=0, atol=1 / 255)
