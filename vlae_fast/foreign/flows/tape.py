"""The products with weights that somebody's function computes, recorded, or given other results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_PRODUCTS = {torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, Tensor.mm}
_SUMS = {torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__}


class Product(NamedTuple):
    """``out = x weight^T + bias`` of x ``[B, I]``; the weight ``[O, I]`` as it is multiplied, zero where masked."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    out: Tensor


class TooManyError(Exception):
    """More products were computed than a tape was to hold."""


class Tape(TorchFunctionMode):
    """Records the products of 2-D inputs with weights. Those in ``instead``, by their place, are not computed.

    instead: function of the place of a product; gives its result, or None where it is to be computed.
    """

    def __init__(self, most: int | None = None, instead: Callable[[int], Tensor | None] | None = None) -> None:
        super().__init__()
        self.products: list[Product] = []
        self.count, self._most, self._instead = 0, most, instead
        self._bare: dict[int, tuple[int, Tensor]] = {}  # results without a bias, which may follow, by their id

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _SUMS and len(args) == 2 and not kwargs:
            return self._sum(func, *args)
        found = None if kwargs and func is not F.linear else _operands(func, args, kwargs)
        if found is None:
            return func(*args, **kwargs)
        place, self.count = self.count, self.count + 1
        if self._most is not None and self.count > self._most:
            raise TooManyError
        result = None if self._instead is None else self._instead(place)
        x, weight, bias = found
        if result is not None:
            if bias is None:
                self._bare[id(result)] = place, result
            return result
        before = x.detach().clone()
        out = func(*args, **kwargs)
        if self._instead is None:
            self.products.append(Product(before, weight.detach().clone(), bias, out.detach().clone()))
            if bias is None:
                self._bare[id(out)] = place, out
        return out

    def _sum(self, func: Any, a: Any, b: Any) -> Any:
        """A sum, which may be of a product and its bias: then it is taken for the product."""
        for product, other in ((a, b), (b, a)):
            if id(product) not in self._bare or not isinstance(other, nn.Parameter):
                continue
            place, tensor = self._bare[id(product)]
            if tensor is product and other.numel() == tensor.shape[1]:
                if self._instead is not None:
                    return product
                out = func(a, b)
                self.products[place] = self.products[place]._replace(bias=other, out=out.detach().clone())
                return out
        return func(a, b)


def _operands(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor | None] | None:
    """x, weight and bias of a product of a 2-D x; None for any other function."""
    if func is F.linear:
        names = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
        x, weight, bias = names["input"], names["weight"], names.get("bias")
    elif func in _PRODUCTS and len(args) == 2:
        x, weight, bias = args[0], args[1].t() if args[1].dim() == 2 else args[1], None
    elif func is torch.addmm and len(args) == 3:
        x, weight, bias = args[1], args[2].t(), args[0]
    else:
        return None
    return (x, weight, bias) if x.dim() == 2 and weight.dim() == 2 else None
