"""Weights that a hook computes before each forward: who reads a weight without a forward asks for it here first."""

from __future__ import annotations

from typing import Any, TypeGuard, TypeVar

from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

_Kind = TypeVar("_Kind", bound=nn.Module)
WEIGHT_HOOKS = (WeightNorm, SpectralNorm, BasePruningMethod)  # they compute by the layer's parameters, not by its input


def refresh(layer: nn.Module) -> None:
    """Computes the weights of one layer anew, as its next forward would.

    The hooks of `torch.nn.utils.weight_norm`, `spectral_norm` and `prune` leave a plain tensor in ``weight``. Until the
    next forward it is the weight of the last one: an optimizer's step or a load_state_dict does not change it.
    """
    for hook in layer._forward_pre_hooks.values():
        if isinstance(hook, WEIGHT_HOOKS):
            hook(layer, ())


def has_hooks(layer: nn.Module) -> bool:
    """True where the layer has a hook of its own that a call would fire."""
    return bool(layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks)


def only_computes(layer: nn.Module, kind: type[_Kind]) -> TypeGuard[_Kind]:
    """True where calling the layer does what its class ``kind`` does, and nothing else.

    It has no hook, no forward of its own, and is not compiled by itself.
    """
    plain = type(layer) is kind and "forward" not in vars(layer) and layer._compiled_call_impl is None
    return plain and not has_hooks(layer) and not _has_any_global_hook()


def weight_and_bias(layer: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias that the layer's next forward would compute with; the bias is None where it has none."""
    refresh(layer)
    return layer.weight, layer.bias
