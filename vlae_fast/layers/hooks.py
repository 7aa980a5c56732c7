"""Weights that a hook computes before each forward: who reads a weight without a forward asks for it here first."""

from __future__ import annotations

from torch import nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

_COMPUTE_A_WEIGHT = (WeightNorm, SpectralNorm, BasePruningMethod)  # of the layer's parameters alone, not of its input


def refresh(layer: nn.Module) -> None:
    """Computes the weights of one layer anew, as its next forward would.

    The hooks of `torch.nn.utils.weight_norm`, `spectral_norm` and `prune` leave a plain tensor in ``weight``, which is
    that of the last forward until then: an optimizer's step or a load_state_dict does not change it.
    """
    for hook in layer._forward_pre_hooks.values():
        if isinstance(hook, _COMPUTE_A_WEIGHT):
            hook(layer, ())
