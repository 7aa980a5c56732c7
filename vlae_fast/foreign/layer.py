"""The weight and the bias of somebody's layer, by whatever names a module has them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..masks import Pair
from .probe import is_mask


class Names(NamedTuple):
    """Attributes of a module that are the weight and the bias of a layer. transposed: the weight is ``[I, O]``."""

    weight: str = "weight"
    bias: str | None = "bias"
    transposed: bool = False
    dilation: Pair | None = None  # None: the module's attribute

    def weight_of(self, module: Any) -> Tensor:
        """``[O, I]`` or ``[O, I, kh, kw]``."""
        weight: Tensor = getattr(module, self.weight)
        return weight.t() if self.transposed else weight

    def bias_of(self, module: Any) -> Tensor | None:
        """``[O]`` or None."""
        bias: Tensor | None = None if self.bias is None else getattr(module, self.bias)
        return bias if bias is None or bias.dim() == 1 else bias.reshape(-1)

    def stored(self, like_weight: Tensor) -> Tensor:
        """A tensor that is shaped like `weight_of`, as the module keeps its weight."""
        return like_weight.t() if self.transposed else like_weight


class Layer:
    """A module as a masked layer: shapes and weight for whoever probes it."""

    def __init__(self, module: nn.Module, names: Names) -> None:
        self.module, self.names = module, names

    @property
    def weight(self) -> Tensor:
        return self.names.weight_of(self.module)

    @property
    def is_conv(self) -> bool:
        return self.weight.dim() == 4

    @property
    def outputs(self) -> int:
        return self.weight.shape[0]

    @property
    def inputs(self) -> int:
        return self.weight.shape[1]

    @property
    def kernel_size(self) -> Pair:
        return self.weight.shape[2], self.weight.shape[3]

    @property
    def dilation(self) -> Pair:
        if self.names.dilation is not None:
            return self.names.dilation
        of_module: Pair = getattr(self.module, "dilation", (1, 1))
        return of_module


def names_of(module: nn.Module) -> Iterator[Names]:
    """Guesses at the weight and the bias of a module that is no `nn.Conv2d` or `nn.Linear`, but may compute as one."""
    own = {n: p for n, p in module._parameters.items() if p is not None and not nn.parameter.is_lazy(p)}
    own = {n: p for n, p in own.items() if p.is_floating_point() and not is_mask(n, p)}
    weights = [(name, p) for name, p in own.items() if p.dim() in (2, 4) and min(p.shape) > 0]
    for name, weight in sorted(weights, key=lambda found: -found[1].numel()):
        for transposed in (False, True) if weight.dim() == 2 else (False,):
            outputs = weight.shape[transposed]
            fits = (n for n, p in own.items() if n != name and p.numel() == outputs == max(p.shape, default=0))
            bias = next(fits, None)
            if weight.dim() == 2:
                yield Names(name, bias, transposed)
                continue
            for step in dict.fromkeys((*_dilations(module), 1, 2, 4)):
                yield Names(name, bias, False, (step, step))


def _dilations(module: nn.Module) -> list[int]:
    given = getattr(module, "dilation", 1)
    given = given[0] if isinstance(given, tuple | list) and given else given
    return [given] if isinstance(given, int) and given > 0 else []


def has_mask(module: nn.Module, layer: Layer) -> bool:
    """True where a module keeps a tensor beside its weight that may be a mask of it."""
    kept = [t for t in module._buffers.values() if t is not None and not nn.parameter.is_lazy(t)]
    kept += [p for n, p in module._parameters.items() if p is not None and is_mask(n, p)]
    kept += [v for v in vars(module).values() if isinstance(v, Tensor) and v.dim() > 1]
    return any(t.dim() > 1 and _is_mask_of(t, layer) for t in kept)


def _is_mask_of(tensor: Tensor, layer: Layer) -> bool:
    if tensor.is_floating_point() and not bool(((tensor == 0) | (tensor == 1)).all()):
        return False
    try:
        return torch.broadcast_shapes(tensor.shape, layer.names.stored(layer.weight).shape) is not None
    except RuntimeError:
        return False
