"""Small models of every kind that the codec has a way for, and images of theirs."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlae_fast import VLAE, PixelCNN

_SMALL: dict[str, Any] = {"latent_dim": 3, "hidden_dim": 4, "n_layers": 1, "image_size": (5, 6), "flow_hidden": 8}
_MAP: dict[str, Any] = {**_SMALL, "latent_dim": 12, "latent_map": (2, 3)}
MODELS: dict[str, Callable[[], VLAE]] = {
    "bernoulli": lambda: VLAE(1, **_SMALL),
    "one flow step": lambda: VLAE(1, **_SMALL, flow_steps=1),
    "three flow steps": lambda: VLAE(1, **_SMALL, flow_steps=3),
    "five flow steps of means": lambda: VLAE(1, **_SMALL, flow_steps=5, flow_transform="mean-only"),
    "iaf": lambda: VLAE(1, **_SMALL, posterior="iaf"),
    "iaf of three steps": lambda: VLAE(1, **_SMALL, posterior="iaf", flow_steps=3),
    "iaf, no flow": lambda: VLAE(1, **_SMALL, posterior="iaf", use_flow=False),
    "no flow": lambda: VLAE(1, **_SMALL, use_flow=False),
    "map": lambda: VLAE(1, **_MAP),
    "map of one flow step": lambda: VLAE(1, **_MAP, flow_steps=1),
    "map of three flow steps": lambda: VLAE(1, **_MAP, flow_steps=3, flow_transform="mean-only"),
    "map of an iaf": lambda: VLAE(1, **_MAP, posterior="iaf"),
    "no code": lambda: PixelCNN(1, hidden_dim=4, n_layers=1, image_size=(5, 6)),
    "two channels": lambda: VLAE(2, **_SMALL),
    "categorical": lambda: VLAE(1, **_SMALL, likelihood="categorical", levels=5),
    "categorical of 256 in colour": lambda: VLAE(3, **_SMALL, likelihood="categorical", levels=256),
    "mixture": lambda: VLAE(3, **_SMALL, likelihood="logistic_mixture", levels=11, components=3),
    "mixture of 256": lambda: VLAE(1, **_SMALL, likelihood="logistic_mixture", levels=256, components=2),
    "classes": lambda: VLAE(1, **_SMALL, n_classes=3),
    "classes of a code that flows": lambda: VLAE(1, **_SMALL, n_classes=5, posterior="iaf", encoder="mlp"),
    "classes alone": lambda: PixelCNN(1, hidden_dim=4, n_layers=1, image_size=(5, 6), n_classes=3),
    "gated": lambda: VLAE(1, **_SMALL, decoder="gated"),
}


def is_slow(name: str, mode: str) -> bool:
    """Pixels of many levels are one way's as the other's: bits back has smaller models of them, and of each code."""
    return mode == "bits_back" and name in ("mixture of 256", "categorical of 256 in colour", "map of three flow steps")


def model_of(name: str, spread: float = 0.3) -> VLAE:
    """Its weights, and those that start at zero too, are moved at random, so that nothing is uniform."""
    torch.manual_seed(1)
    model = MODELS[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(spread * torch.randn_like(parameter))
    return model.eval()


def images_of(model: VLAE, n: int, seed: int = 0) -> Tensor:
    """Images of random levels, half of them the lowest: what a model that was not trained finds unlikely."""
    generator = torch.Generator().manual_seed(seed)
    shape = (n, model.likelihood.channels, *model.decoder.image_size)
    top = model.likelihood.levels - 1
    levels = torch.randint(0, top + 1, shape, generator=generator)
    return levels.where(torch.rand(shape, generator=generator) < 0.5, 0).float() / top


def labels_of(model: VLAE, n: int) -> Tensor | None:
    """A label for each image, all but one of a class; None where a model has none."""
    return (torch.arange(n) == 1).long() * (model.n_classes - 1) if model.n_classes else None


def hashed(shape: tuple[int, ...], seed: int) -> Tensor:
    """Numbers in [-1, 1) that no library draws."""
    k = np.arange(int(np.prod(shape)), dtype=np.uint64) + np.uint64(1000003 * seed)
    k = k * np.uint64(0x9E3779B97F4A7C15)
    k = (k ^ (k >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    return torch.from_numpy(((k >> np.uint64(40)).astype(np.float64) / 2.0**23 - 1).astype(np.float32)).view(shape)


@torch.no_grad()
def of_integers(model: VLAE) -> VLAE:
    """Its weights are none that a release draws in another way."""
    for seed, (_, parameter) in enumerate(sorted(model.named_parameters())):
        parameter.copy_(0.5 * hashed(tuple(parameter.shape), seed))
    return model.eval()
