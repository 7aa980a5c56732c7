"""Weights that a hook computes before a forward, read where there is none."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

WEIGHT_HOOKS = (WeightNorm, SpectralNorm, BasePruningMethod)


def weight_and_bias(layer: Any) -> tuple[Tensor, Tensor]:
    """What the layer's next forward would compute with.

    The bias is None where it has none. `torch.nn.utils.weight_norm` and `prune` compute
    them in a hook of that: as attributes they are those of the last.
    """
    for hook in layer._forward_pre_hooks.values():
        if isinstance(hook, WEIGHT_HOOKS):
            hook(layer, ())
    return layer.weight, layer.bias
