"""The model card of a checkpoint: README.md, as the Hugging Face Hub shows it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..models import options
from .reading import Checkpoint

_PARTS = {"loss": "-ELBO", "reconstruction": "reconstruction", "kl": "KL", "bits_per_dim": "bits per dimension"}


def card_of(found: Checkpoint, *, name: str = "user/model", license: str | None = None) -> str:
    """Markdown that says what the model is, how it was trained, how good it was at the end, and how to use it.

    Args:
        found: the checkpoint. name: of the repository, in the code shown.
        license: an identifier such as ``mit``; None: none is claimed.
    """
    said = [*_front(license), f"# {title_of(found)}", "", *use_of(found, name)]
    said += section("Model", "what differs from the defaults of `vf.VLAE`", options.to_give(found.model.config))
    said += section("Training", f"{found.epoch} epochs", found.training)
    return "\n".join(said + _figures(found.history)).rstrip() + "\n"


def title_of(found: Checkpoint) -> str:
    """What the model is, and of which data."""
    model, data = found.model, found.training.get("data")
    kind = "PixelCNN" if not model.latent_dim else "VLAE" if model.decoder.autoregressive else "VAE"
    return f"A {kind} on {_plain(data)}" if data else f"A {kind}"


def use_of(found: Checkpoint, name: str) -> list[str]:
    """How large the model is, and the code that draws from it."""
    model = found.model
    count = sum(parameter.numel() for parameter in model.parameters())
    size = "x".join(map(str, (model.config["input_dim"], *model.config["image_size"])))
    said = [
        f"{count:,} parameters, images of {size} (channels, height, width), {model.config['likelihood']} likelihood"
        + (f", {model.latent_dim} latent dimensions" if model.latent_dim else "")
        + ". A model of vlae_fast, which samples it exactly and fast.",
        "",
        "```python",
        "import vlae_fast as vf",
        "",
        f'model = vf.VLAE.from_pretrained("{name}")',
        "images = model.sample(16" + (", labels=torch.arange(16) % model.n_classes" if model.n_classes else "") + ")",
        "```",
        "",
    ]
    if model.n_classes:
        said.insert(said.index("import vlae_fast as vf"), "import torch")
    return said


def _front(license: str | None) -> list[str]:
    """The head that the Hub reads, in YAML; JSON is a part of that."""
    head: dict[str, Any] = {"library_name": "vlae_fast", "pipeline_tag": "unconditional-image-generation"}
    head |= {"license": license} if license else {}
    head |= {"tags": ["vae", "pixelcnn", "image-generation"]}
    return ["---", *(f"{key}: {json.dumps(value)}" for key, value in head.items()), "---", ""]


def section(title: str, about: str, values: Mapping[str, Any]) -> list[str]:
    """A table of options and their values; nothing where there are none."""
    if not values:
        return []
    rows = [f"| {_plain(key)} | {_plain(value)} |" for key, value in values.items()]
    return [f"## {title}", "", f"{about[0].upper()}{about[1:]}:", "", "| option | value |", "|---|---|", *rows, ""]


def _figures(history: list[dict[str, float]]) -> list[str]:
    if not history:
        return []
    last, rows = history[-1], []
    for key, name in _PARTS.items():
        if {key, f"valid_{key}"} <= last.keys():
            rows.append(f"| {name} | {last[key]:.4g} | {last[f'valid_{key}']:.4g} |")
    if not rows:
        return []
    head = ["## Figures", "", f"Of epoch {len(history)}, in nats per image unless named otherwise:", ""]
    return [*head, "| | training | validation |", "|---|---|---|", *rows, ""]


def _plain(value: Any) -> str:
    """A value on one line of a table, whatever a stranger's config says."""
    return " ".join(str(value).split()).replace("|", r"\|")
