"""What the options of a VLAE may be."""

from __future__ import annotations

import math
from typing import Any

from .. import backends
from .decoders.make import KINDS
from .encoder import ENCODERS
from .likelihood import LIKELIHOODS
from .posterior import POSTERIORS


def check_options(config: dict[str, Any]) -> None:
    """Raises ValueError naming the first option that breaks a rule; its parts check their own options."""
    least = {"latent_dim": 1, "hidden_dim": 2, "encoder_hidden": 2, "flow_hidden": 1, "n_classes": 0}
    least |= {"flow_steps": 1, "flow_layers": 1}
    for name, low in least.items():
        if config[name] is not None and config[name] < low:
            raise ValueError(f"VLAE: {name} must be at least {low}, got {config[name]}")
    size, latent_map = config["image_size"], config["latent_map"]
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"VLAE: image_size must be (H, W), both positive, got {tuple(size)}")
    if latent_map is not None and (
        len(latent_map) != 2 or min(latent_map) < 1 or config["latent_dim"] % math.prod(latent_map)
    ):
        rule = f"(h, w), both positive, with h * w a divisor of latent_dim = {config['latent_dim']}"
        raise ValueError(f"VLAE: latent_map must be {rule}, got {tuple(latent_map)}")
    if config["weight_norm"] and config["encoder"] != "resnet":
        raise ValueError(f"VLAE: weight_norm must be False with encoder {config['encoder']!r}, got True")
    choices = {"backend": backends.NAMES, "posterior": POSTERIORS, "encoder": ENCODERS, "decoder": KINDS}
    for name, names in (choices | {"likelihood": LIKELIHOODS}).items():
        if config[name] not in names:
            raise ValueError(f"VLAE: {name} must be one of {', '.join(names)}, got {config[name]!r}")
