"""The images that a PNG shows as a grid, to be compared with those that it must hold."""

from pathlib import Path

import torch
from torch import Tensor

from vlae_fast.visualization import grid
from vlae_fast.visualization.grids import BORDER


def decoded(path: Path) -> Tensor:
    """The pixels of a PNG from 0 to 1, ``[H, W, 3]``."""
    from matplotlib import image

    return torch.from_numpy(image.imread(path))[..., :3]


def assert_shows(path: Path, images: Tensor, columns: int) -> None:
    """The PNG is the grid of these images ``[N, 1 or 3, H, W]``; a pixel of theirs is a square of 2 x 2."""
    want = grid(images, columns).movedim(0, -1)
    want = want.repeat_interleave(2, 0).repeat_interleave(2, 1)
    torch.testing.assert_close(decoded(path), want.expand(-1, -1, 3), rtol=0, atol=1 / 255)


def tiles(path: Path, size: tuple[int, int]) -> Tensor:
    """The grey images ``[N, H, W]`` of a whole grid, row by row."""
    shown = decoded(path)[::2, ::2, 0]
    height, width = size[0] + BORDER, size[1] + BORDER
    images = shown[BORDER:, BORDER:].unfold(0, size[0], height).unfold(1, size[1], width)
    return images.flatten(0, 1)
