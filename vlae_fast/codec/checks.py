"""What models and images the codec takes, and how many of them a chunk has."""

from __future__ import annotations

import torch
from torch import Tensor

from ..arguments import check_kind, check_tensor, whole
from ..backends import cpu
from ..models.vlae import VLAE
from .container import LIKELIHOODS, MOST_IN_CHUNK, MOST_NUMBERS
from .pixels import Pixels

PER_CHUNK = {"mean": 256, "bits_back": 4096, "lossy": 256}  # images, unless their parameters take too much memory
_NUMBERS_OF_CHUNK = 1 << 23  # parameters


def check_model(model: VLAE) -> None:
    """Raises ValueError or TypeError unless the codec has a way for a model of this kind."""
    check_kind("codec", "model", model, VLAE, "a VLAE")
    emit = model.likelihood.emit
    if emit.kind not in LIKELIHOODS or not emit.levels:
        rule = f"likelihood must be one of levels ({', '.join(LIKELIHOODS)})"
        raise ValueError(f"codec: {rule}, got {emit.kind} of {emit.levels} levels")
    if not model.decoder.autoregressive:
        raise ValueError(
            "codec: decoder must draw a pixel after the other, got one whose pixels are independent given z"
        )
    weight = next(model.decoder.parameters())
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        raise ValueError(f"codec: model must be on the CPU in float32, got {weight.device} {weight.dtype}")
    if why := cpu.why_not():
        raise RuntimeError(f"codec: the backend cpu must be there, for its bits do not depend on the batch: {why}")


def check_images(model: VLAE, x: Tensor) -> None:
    """Raises ValueError or TypeError unless x is images of the model's shape and levels."""
    shape = (model.likelihood.channels, *model.decoder.image_size)
    check_tensor("codec.encode", "x", x)
    if x.dim() != 4 or tuple(x.shape[1:]) != shape:
        raise ValueError(f"codec.encode: x must be [B, {', '.join(map(str, shape))}], got {list(x.shape)}")
    if x.dtype != torch.float32:
        raise TypeError(f"codec.encode: x must be float32, got {x.dtype}")
    model.likelihood.check(x)


def images_of_chunk(asked: int | None, pixels: Pixels, mode: str) -> int:
    """Images of a chunk, as asked or as a mode has them; ValueError where asked is none that a file has."""
    channels, height, width = pixels.shape
    each = pixels.emit.params(channels) * height * width
    if asked is None:
        most = MOST_NUMBERS if mode == "bits_back" else _NUMBERS_OF_CHUNK
        return max(1, min(PER_CHUNK[mode], most // each))
    if not 1 <= whole("codec.encode", "per_chunk", asked) <= MOST_IN_CHUNK:
        raise ValueError(f"codec.encode: per_chunk must be from 1 to {MOST_IN_CHUNK:,}, got {asked}")
    return asked
