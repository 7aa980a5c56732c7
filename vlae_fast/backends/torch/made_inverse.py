"""The inverse of an autoregressive transform: a dimension as soon as its shift and scale are known."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ...reference.arguments import Layers, Transform
from .made_walk import Walk

_LEAST_SLOPE = 1e-3  # of the transforms that have a least one
# d eps / d x by the scale's parameter; "exp" multiplies by its inverse instead.
_SLOPES: dict[str, Callable[[Tensor], Tensor]] = {
    "exp_slope": torch.exp,
    "clipped_exp": lambda raw: torch.exp(_clipped(raw)),
    "softplus": lambda raw: F.softplus(raw) + _LEAST_SLOPE,
    "sigmoid": lambda raw: torch.sigmoid(raw + 2) + _LEAST_SLOPE,
}
_LOG_SLOPES: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.neg,
    "exp_slope": lambda raw: raw,
    "clipped_exp": lambda raw: _clipped(raw),
}


def _clipped(raw: Tensor) -> Tensor:
    return raw / (1 + raw.abs() / -math.log(_LEAST_SLOPE))


@torch.no_grad()
def made_inverse(eps: Tensor, layers: Layers, transform: Transform) -> tuple[Tensor, Tensor]:
    """x ``[1, B, D]`` and the log-determinant ``[B]`` of one step."""
    batch, dim = eps.shape
    walk, scale = Walk(layers, transform.activation, batch, dim), transform.scale
    wanted = eps.T.index_select(0, walk.input_order)
    for d, params, x in walk:
        if len(params) == 1:
            torch.add(params, wanted[d], out=x)
        elif scale == "exp":
            torch.addcmul(params[:1], params[1:].exp(), wanted[d], out=x)
        else:
            torch.sub(wanted[d], params[:1], out=x).div_(_SLOPES[scale](params[1:]))
    x = torch.empty_like(wanted).index_copy_(0, walk.input_order, walk.values[0])
    outputs = walk.values[-1].unflatten(0, (dim, -1))
    if outputs.shape[1] == 1:
        return x.T[None].contiguous(), eps.new_zeros(batch)
    raw = outputs[:, 1]
    log = _LOG_SLOPES[scale](raw) if scale in _LOG_SLOPES else _SLOPES[scale](raw).log()
    return x.T[None].contiguous(), log.sum(0)
