"""Short training runs for the tests of training and of what is done with its checkpoints."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch

from vlae_fast import VLAE, data, training
from vlae_fast.training import loop


@functools.cache
def halves() -> data.Images:
    """Grey 8x8 pictures of two kinds, left half or right half light, so that there is something to learn."""
    generator = torch.Generator().manual_seed(0)
    right = torch.rand(60, 1, 1, 1, generator=generator) < 0.5
    light = (torch.arange(8) >= 4) == right
    grey = torch.where(light, 230, 25).to(torch.uint8).expand(60, 1, 8, 8).contiguous()
    return data.Images("halves", grey[:40], grey[40:50], grey[50:], "40/10/10")


def new_model(**changes: Any) -> VLAE:
    torch.manual_seed(0)
    sizes = {"input_dim": 1, "latent_dim": 2, "hidden_dim": 8, "n_layers": 1, "image_size": (8, 8), "flow_hidden": 8}
    return VLAE(**(sizes | changes))  # type: ignore[arg-type]


def run(model: VLAE, out: Path, **options: Any) -> training.History:
    """Two epochs of three steps unless told otherwise."""
    settings = {"epochs": 2, "batch_size": 16, "lr": 5e-3, "progress": False} | options
    return training.train(model, halves(), out_dir=out, **settings)


def same(a: VLAE, b: VLAE) -> bool:
    return all(x.equal(y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def interrupting(before: int) -> Any:
    """An update that is interrupted where it would be the one of this number, from 0."""
    step, left = loop.update, [before]

    def update(*args: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return step(*args)

    return update
