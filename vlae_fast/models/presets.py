"""Models by name: those of the common tutorials and of the paper, and the recipes of data sets, with the settings that
they are trained by.

A row is a name, options of `VLAE`, fields of `training.Settings`, and what else a run is told. `preset` makes the
model, ``vlae-fast train --preset NAME`` trains it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .vlae import VLAE


@dataclass(frozen=True)
class Preset:
    """A row of ``PRESETS``.

    about: one line. model: options of `VLAE`. settings: fields of `training.Settings`. run: other parameters of the
    train command by their names in Python, such as epochs, labels, data_name, binarization.
    """

    about: str
    model: Mapping[str, Any]
    settings: Mapping[str, Any] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)

    @property
    def parameters(self) -> dict[str, Any]:
        """All that the row says, by the names of the train command's parameters."""
        return {**self.model, **self.settings, **self.run}


_MLP = {
    "decoder": "mlp",
    "encoder": "mlp",
    "encoder_activation": "relu",
    "hidden_dim": 256,
    "n_layers": 2,
    "use_flow": False,
}
_TAPERED = {**_MLP, "tapered": True, "latent_dim": 20}
# Recipes: of what was tried a window of 3x3 first makes the most of a CPU's minute; the step falls to 0
_NARROW = {"hidden_dim": 32, "n_layers": 4, "residual": True, "initial_kernel": 3}
_WIDE = {"hidden_dim": 32, "n_layers": 4, "residual": True}
_MIXTURE = {"likelihood": "logistic_mixture", "components": 5}
_OF_COLOURS = {
    "latent_dim": 64,
    "hidden_dim": 48,
    "n_layers": 4,
    "residual": True,
    "initial_kernel": 5,
    "likelihood": "logistic_mixture",
}
_SETTINGS = {"lr": 2e-3, "lr_schedule": "cosine", "polyak": 0.998, "warmup_epochs": 1.0}
_OF_FEW = {"polyak": 0.995, "warmup_epochs": 5.0}  # images: an epoch has few steps


def _recipe(
    data: str, about: str, model: Mapping[str, Any], epochs: int, binarization: str, **settings: float
) -> Preset:
    run = {"data_name": data, "binarization": binarization, "epochs": epochs}
    return Preset(f"the recipe of {data}: {about}", model, {**_SETTINGS, **settings}, run)


PRESETS: dict[str, Preset] = {
    "conv-vae-8-16-32": Preset(
        "the convolutional VAE: 3x3 convolutions of 8, 16, 32 channels and their mirror, 61,473 parameters",
        {
            "decoder": "deconv",
            "deconv_kernel": 3,
            "encoder": "strided",
            "encoder_activation": "relu",
            "encoder_units": 0,
            "latent_dim": 32,
            "hidden_dim": 32,
            "n_layers": 3,
            "use_flow": False,
        },
    ),
    "mlp-vae-256": Preset(
        "the fully connected VAE: 784-256-256-32-256-256-784, ReLU, gradients clipped at 1, 558,928 parameters",
        {**_MLP, "latent_dim": 32},
        {"batch_size": 128, "lr": 1e-3, "clip_grad": 1.0},
        {"epochs": 20},
    ),
    "mlp-vae-256-128": Preset(
        "the fully connected VAE of narrowing layers: 784-256-128-20-128-256-784, ReLU, 476,216 parameters",
        _TAPERED,
        {"batch_size": 128, "lr": 1e-3},
        {"epochs": 10},
    ),
    "conditional": Preset(
        "the conditional VAE: mlp-vae-256-128 whose encoder and decoder are told the label, 480,056 for 10 classes",
        {**_TAPERED, "n_classes": 10},
        {"batch_size": 128, "lr": 1e-3},
        {"epochs": 10, "labels": True},
    ),
    # Free bits of 0.01 nats for each of the 784 pixels
    "vlae-paper": Preset(
        "the VLAE in the paper's form: ResNet encoder, flow prior, masked ResNet decoder of a 13x7 window, Adamax",
        {
            "decoder": "resnet",
            "encoder": "resnet",
            "encoder_norm": "weight",
            "encoder_hidden": 32,
            "latent_dim": 64,
            "hidden_dim": 12,
            "n_layers": 6,
            "flow_hidden": 640,
        },
        {"optimizer": "adamax", "lr": 2e-3, "polyak": 0.998, "soft_free_bits": 11.3},
    ),
    "mnist": _recipe("mnist", "the model that ships, binarized anew each epoch", _WIDE, 24, "dynamic"),
    "static-mnist": _recipe("static-mnist", "the fixed binarization, a 3x3 window first", _NARROW, 22, "fixed"),
    "omniglot": _recipe("omniglot", "28x28 characters, a 3x3 window first", _NARROW, 45, "dynamic"),
    "caltech": _recipe("caltech-silhouettes", "4,100 silhouettes, a slower average", _NARROW, 70, "fixed", **_OF_FEW),
    "fashion": _recipe(
        "fashion-mnist", "256 levels by a mixture of five logistics", {**_NARROW, **_MIXTURE}, 20, "none"
    ),
    "cifar10": _recipe("cifar10", "RGB by a mixture of ten logistics, 48 channels, z of 64", _OF_COLOURS, 20, "none"),
}


def preset(name: str, **changes: Any) -> VLAE:
    """The model of a name in ``PRESETS``, with weights of its own.

    Args:
        changes: options of `VLAE` in place of the preset's, such as ``input_dim`` and ``image_size``.

    Raises:
        ValueError: the name is unknown, or an option breaks a rule. TypeError: an option is unknown.

    >>> model = preset("mlp-vae-256")
    >>> sum(parameter.numel() for parameter in model.parameters())
    558928
    """
    if name not in PRESETS:
        raise ValueError(f"preset: name must be one of {', '.join(PRESETS)}, got {name!r}")
    return VLAE(**{**PRESETS[name].model, **changes})
