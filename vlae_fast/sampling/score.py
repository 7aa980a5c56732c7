"""Log-probabilities of images, of the parameters that they are drawn from."""

from __future__ import annotations

import torch
from torch import Tensor

from ..arguments import check_tensor
from ..plan import Emit, check_temperature
from ..reference import pixelcnn_score
from .emit import Samples


def score(drawn: Samples, emit: Emit, temperature: float, of: Tensor | None = None) -> Tensor:
    """``log p`` of images in nats, ``[B]``, of the channels `of`, summed in float64."""
    params, images = drawn.logits.double(), drawn.images.double()
    log_prob = pixelcnn_score.log_prob(params, images, emit, temperature, of)
    return log_prob.flatten(1).sum(1).to(drawn.images.dtype)


def check_scored(
    op: str, x: Tensor, emit: Emit, shape: tuple[int, ...], dtype: torch.dtype, temperature: float
) -> None:
    """Raises ValueError unless x is ``[B, *shape]`` of values that the emit has, and the temperature in its range."""
    check_tensor(op, "x", x)
    if x.dim() != 4 or x.shape[1:] != shape or x.dtype != dtype:
        rule = f"x must be {dtype} [B, {', '.join(map(str, shape))}]"
        raise ValueError(f"{op}: {rule}, got {x.dtype} {list(x.shape)}")
    off = ~emit.holds(x)
    if off.any():
        raise ValueError(f"{op}: x must be {emit.rule}, got {x[off][0].item():g}")
    check_temperature(op, temperature)
