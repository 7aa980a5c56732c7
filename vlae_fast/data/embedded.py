"""Data that needs no file of ours and no network."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .._extras import require
from .images import SPLITS, Images


def digits(binarization: str = "threshold", seed: int = 0) -> Images:
    """scikit-learn's 1,797 handwritten digits of 8x8, enlarged to 24x24 with a margin of 2: no download, 28x28.

    seed: of the split. Bicubic enlargement and the threshold at one half give the strokes back their smooth edges.
    """
    bunch = require("sklearn.datasets").load_digits()
    small = torch.from_numpy(bunch.images).float()[:, None] / 16  # [1797, 1, 8, 8]
    large = F.interpolate(small, (24, 24), mode="bicubic", align_corners=False).clamp(0, 1)
    grey = F.pad(large, (2, 2, 2, 2)).mul(255).round().to(torch.uint8)
    order = torch.randperm(len(grey), generator=torch.Generator().manual_seed(seed), device="cpu")
    rows = dict(zip(SPLITS, order.split([1500, 100, 197]), strict=True))
    labels = torch.from_numpy(bunch.target).long()
    split = f"1,500 train / 100 valid / 197 test, drawn with seed {seed}"
    parts = {k: grey[r] for k, r in rows.items()}
    return Images(
        "digits", **parts, split=split, binarization=binarization, labels={k: labels[r] for k, r in rows.items()}
    )
