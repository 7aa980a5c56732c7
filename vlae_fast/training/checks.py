"""What is checked before a run begins: that model, images and settings go together, and are those of every process."""

from __future__ import annotations

from typing import Any

from torch import nn

from .. import processes
from ..data import Images
from ..models.digest import digest_of
from ..models.vlae import VLAE
from .settings import Settings


def check_run(model: VLAE, images: Images, settings: Settings) -> None:
    """Raises ValueError where model, images and settings do not go together."""
    _check_levels(model, images)
    _check_code(model, settings)
    _check_last_batch(model, len(images.train), settings)
    _check_shares(model, settings)


def check_same_run(model: VLAE, images: Images, description: dict[str, Any], **others: Any) -> None:
    """Raises ValueError in every process where one has other arguments, settings or images than the first."""
    if processes.count() > 1:
        pixels = {"train": images.train, "valid": images.valid}
        data = {f"images of {split}": digest_of({"pixels": bytes_}) for split, bytes_ in pixels.items()}
        processes.check_same(model.config | description | others | data)


def _check_levels(model: VLAE, images: Images) -> None:
    levels = model.likelihood.levels
    if images.levels in (2, levels):
        return
    rule = f"levels that a {model.likelihood.kind} likelihood of {levels} has"
    advice = ""
    if levels == 2:
        advice = (
            ': choose binarization "dynamic", or a likelihood of grey values: categorical, logistic_mixture, '
            "gaussian, or continuous_bernoulli with decoder mlp or deconv"
        )
    found = f"{images.levels} (binarization {images.binarization!r})"
    raise ValueError(f"images: must have {rule}, got {found}{advice}")


def _check_code(model: VLAE, settings: Settings) -> None:
    """ValueError where a setting is about z and the model has none."""
    if model.latent_dim:
        return
    for name in ("objective", "samples", "free_bits", "soft_free_bits", "denoise"):
        value, default = getattr(settings, name), getattr(Settings, name)
        if value != default:
            raise ValueError(f"{name}: must be {default!r} for a model without z (latent_dim 0), got {value!r}")


def _check_last_batch(model: VLAE, images: int, settings: Settings) -> None:
    """ValueError where batch normalisation of vectors would get one of them: it has no variance."""
    smallest = images % settings.batch_size or settings.batch_size
    if smallest * settings.samples == 1 and any(isinstance(layer, nn.BatchNorm1d) for layer in model.modules()):
        rule = f"must leave no batch of one image of {images:,}: batch normalisation has no variance of one"
        raise ValueError(f"batch_size: {rule}, got {settings.batch_size}")


def _check_shares(model: VLAE, settings: Settings) -> None:
    """ValueError where the processes cannot share a batch."""
    count = processes.count()
    if settings.batch_size < count:
        raise ValueError(f"batch_size: must be at least {count}, an image a process, got {settings.batch_size}")
    for name, layer in model.named_modules():
        if count > 1 and isinstance(layer, nn.modules.batchnorm._BatchNorm):
            advice = "a process would normalise by its own share of a batch: take encoder_norm or decoder_norm 'weight'"
            raise ValueError(f"model: must have no batch normalisation in {count} processes, got {name}; {advice}")
