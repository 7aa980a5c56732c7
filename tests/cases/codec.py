"""Small models of every kind that the codec has a way for, and images of theirs."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vlae_fast import VLAE, PixelCNN

_SMALL: dict[str, Any] = {"latent_dim": 3, "hidden_dim": 4, "n_layers": 1, "image_size": (5, 6), "flow_hidden": 8}
MODELS: dict[str, Callable[[], VLAE]] = {
    "bernoulli": lambda: VLAE(1, **_SMALL),
    "one flow step": lambda: VLAE(1, **_SMALL, flow_steps=1),
    "three flow steps": lambda: VLAE(1, **_SMALL, flow_steps=3),
    "five flow steps of means": lambda: VLAE(1, **_SMALL, flow_steps=5, flow_transform="mean-only"),
    "iaf": lambda: VLAE(1, **_SMALL, posterior="iaf"),
    "iaf of three steps": lambda: VLAE(1, **_SMALL, posterior="iaf", flow_steps=3),
    "iaf, no flow": lambda: VLAE(1, **_SMALL, posterior="iaf", use_flow=False),
    "no flow": lambda: VLAE(1, **_SMALL, use_flow=False),
    "no code": lambda: PixelCNN(1, hidden_dim=4, n_layers=1, image_size=(5, 6)),
    "two channels": lambda: VLAE(2, **_SMALL),
    "categorical": lambda: VLAE(1, **_SMALL, likelihood="categorical", levels=5),
    "categorical of 256 in colour": lambda: VLAE(3, **_SMALL, likelihood="categorical", levels=256),
    "mixture": lambda: VLAE(3, **_SMALL, likelihood="logistic_mixture", levels=11, components=3),
    "mixture of 256": lambda: VLAE(1, **_SMALL, likelihood="logistic_mixture", levels=256, components=2),
    "gated": lambda: VLAE(1, **_SMALL, decoder="gated"),
}


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
