"""A network of z whose outputs have the same bits in any batch and for any number of threads.

PyTorch's products add in an order that depends on the batch, on alignment and on how threads share them: here they are
made by kernels of our own, or by elementwise operations. Its elementwise functions round differently where a stretch of
memory ends in less than a vector: activations have kernels of our own too, and for the others it never does.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..backends import cpu
from ..layers.hooked_weight import only_computes
from ..layers.weight_norm import WeightNormConv2d
from ..reference.arguments import Mask
from .live import LiveCopy

_SERIAL = 1 << 15  # elements up to which PyTorch gives an elementwise operation to one thread
_WHOLE = 64  # elements that are a whole number of vectors in every instruction set and dtype


class Spread:
    """A snapshot of a network ``z [B, D] -> [B, C, ...]`` for what a backend draws.

    It is given one row at a time, or all of them where it says that it ``takes_batches``.

    On a CPU a row has the same bits in any batch and for any number of threads, elsewhere in any batch. That holds for
    networks of linear layers, convolutions, elementwise functions, interpolation, softmax, layer and group norms;
    an operation of another kind is PyTorch's own, given one row. The backend ``torch``, whose products are PyTorch's
    anyway, has no such bits to keep: its network is PyTorch's as it is.
    """

    def __init__(self, network: nn.Module, backend: str, isa: str | None = None) -> None:
        self.products = NativeProducts(isa) if backend == "cpu" else Products()
        self.is_fixed = backend != "torch"
        self._copy(network)

    def _copy(self, network: nn.Module) -> None:
        self.network, folded = copy.deepcopy(network), False
        for layer in self.network.modules():
            if isinstance(layer, WeightNormConv2d) and layer.gain is not None:
                with torch.no_grad():
                    layer.weight, layer.gain = nn.Parameter(layer.folded_weight()), None
                folded = True
        self._live = None if folded else LiveCopy(network, self.network)

    def refresh(self, network: nn.Module) -> None:
        """Takes the network as it is now."""
        if self._live is None or self._live.source is not network or not self._live.refresh():
            self._copy(network)

    def __call__(self, z: Tensor) -> Tensor:
        if not self.is_fixed:
            return self.network(z) if getattr(self.network, "takes_batches", False) else self._row_by_row(z)
        if z.device.type != "cpu":
            return self._row_by_row(z)
        if isinstance(self.products, NativeProducts) and z.dtype == torch.float32 and self._says_its_layers():
            return self.network.by_layers(z, self.products.linear)  # type: ignore[operator]
        with FixedOrder(self.products) as mode:
            if not getattr(self.network, "takes_batches", False):
                return self._row_by_row(z)
            out = self.network(z.clone())
            return out if mode.by_row or len(z) == 1 else self._row_by_row(z)

    def _says_its_layers(self) -> bool:
        """True where `by_layers` is of the class whose `forward` runs: PyTorch would be stopped at every operation."""
        network, kind = self.network, type(self.network)
        plain = all(only_computes(part, kind if part is network else nn.Linear) for part in network.modules())
        return plain and {"by_layers", "forward"} <= vars(kind).keys()

    def _row_by_row(self, z: Tensor) -> Tensor:
        return torch.cat([self.network(row.clone()) for row in z.split(1)])


class Products:
    """Products of any dtype, by elementwise operations alone."""

    def matrix(self, a: Tensor, b: Tensor) -> Tensor:
        """``a [M, K], b [N, K] -> a b^T``: halves of a sum are added until one is left."""
        terms = torch.stack([row * b for row in a]) if len(a) else a.new_zeros(0, *b.shape)  # [M, N, K]
        while (n := terms.shape[2]) > 1:
            half = n // 2
            sums = terms[:, :, :half] + terms[:, :, half : 2 * half]
            terms = torch.cat([sums, terms[:, :, 2 * half :]], 2) if n % 2 else sums
        return terms.sum(2)

    def convolution(self, x: Tensor, weight: Tensor, stride: int) -> Tensor | None:
        """A convolution of odd side k and padding k // 2; None: by products of matrices."""
        return None

    def activation(self, x: Tensor, name: str) -> Tensor | None:
        """An activation of the table; None: by PyTorch, on whole vectors."""
        return None


class NativeProducts(Products):
    """Products by the CPU library, whose sums do not depend on batch or threads; ``isa``: None is the best one."""

    def __init__(self, isa: str | None = None) -> None:
        self.isa = isa or ""

    def matrix(self, a: Tensor, b: Tensor) -> Tensor:
        if a.dtype != torch.float32:
            return super().matrix(a, b)
        return cpu.masked_linear(a, b, None, _all_alive(*reversed(b.shape)), "none", self.isa)

    def linear(self, x: Tensor, layer: nn.Linear, activation: str) -> Tensor:
        """``activation(layer(x))`` in float32."""
        alive = _all_alive(layer.in_features, layer.out_features)
        return cpu.masked_linear(x, layer.weight, layer.bias, alive, activation, self.isa)

    def convolution(self, x: Tensor, weight: Tensor, stride: int) -> Tensor | None:
        return cpu.convolution(x, weight, self.isa, stride) if x.dtype == torch.float32 else None

    def activation(self, x: Tensor, name: str) -> Tensor | None:
        return cpu.activate(x, name, self.isa) if x.dtype == torch.float32 else None


@lru_cache(maxsize=64)
def _all_alive(inputs: int, outputs: int) -> Mask:
    """A mask that masks nothing."""
    return Mask(*(torch.zeros(n, dtype=torch.int64, device="cpu") for n in (inputs, outputs)))


class FixedOrder(TorchDispatchMode):
    """Inside, PyTorch's products, convolutions and activations are `products`, other elementwise functions run on whole
    vectors.

    ``.by_row`` stays true while every operation gives a row of a batch the bits that it has alone.
    """

    def __init__(self, products: Products) -> None:
        super().__init__()
        self.products, self.by_row = products, True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing in here is ever compiled; else PyTorch imports its compiler at the first operation, for seconds."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name in _HANDLERS:
            return _HANDLERS[name](self.products, *args, **kwargs)
        if func.is_view or (name.removesuffix("_") in _EXACT and "alpha" not in kwargs):
            return func(*args, **kwargs)
        return self.rounded(func, name, args, kwargs)

    def rounded(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        """An operation that is no product, and is not rounded once."""
        out = self.products.activation(args[0], found) if (found := _activation(name, args, kwargs)) else None
        if out is not None:
            return args[0].copy_(out) if func._schema.is_mutable else out
        if name.startswith("upsample_"):
            return torch.cat([func(row.clone(), *args[1:], **kwargs) for row in args[0].split(1)])
        if name in ("_softmax", "_log_softmax"):
            return _softmax(func, *args, **kwargs)
        if torch.Tag.pointwise in func.tags and len(func._schema.returns) == 1 and "out" not in kwargs:
            return _on_whole_vectors(func, args, kwargs)
        self.by_row = False
        return func(*args, **kwargs)


# Copies, and elementwise operations of a single rounding
_EXACT = frozenset(
    "_to_copy _unsafe_view abs add cat clamp clone constant_pad_nd copy div empty empty_like eq full full_like ge "
    "gt hardtanh index le lt maximum minimum mul ne neg new_empty new_full new_ones new_zeros ones ones_like "
    "pixel_shuffle relu split sqrt stack sub threshold unbind where zeros zeros_like".split()
)


# Activations of the table by the names of PyTorch's operations, and the options that those have there
_ACTIVATIONS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "elu": ("elu", (1, 1, 1)),
    "sigmoid": ("sigmoid", ()),
    "tanh": ("tanh", ()),
    "silu": ("silu", ()),
    "softplus": ("softplus", (1, 20)),
}


def _activation(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> str | None:
    """The activation of the table that an operation is, None where it is none or has other options."""
    name, given = name.removesuffix("_"), tuple(args[1:])
    if name == "gelu":
        return "gelu_tanh" if kwargs.get("approximate") == "tanh" else "gelu"
    found, defaults = _ACTIVATIONS.get(name, (None, ()))
    return found if not kwargs and given == defaults[: len(given)] else None


def _on_whole_vectors(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    places = [i for i, a in enumerate(args) if isinstance(a, Tensor)]
    tensors = torch.broadcast_tensors(*(args[i] for i in places))
    shape, n = tensors[0].shape, tensors[0].numel()
    padded = [F.pad(t.reshape(-1), (0, -n % _WHOLE)) if n % _WHOLE else t.reshape(-1) for t in tensors]
    outs = []
    for block in zip(*(t.split(_SERIAL) for t in padded), strict=True):
        given = list(args)
        for i, t in zip(places, block, strict=True):
            given[i] = t
        outs.append(func(*given, **kwargs))
    out = (torch.cat(outs) if len(outs) > 1 else outs[0])[:n].view(shape)
    return args[0].copy_(out) if func._schema.is_mutable else out


def _softmax(func: Callable[..., Tensor], x: Tensor, dim: int, half_to_float: bool) -> Tensor:
    """Over the last dimension: that of a row is one thread's work."""
    return func(x.movedim(dim, -1).contiguous(), -1, half_to_float).movedim(-1, dim)


def _mm(products: Products, a: Tensor, b: Tensor) -> Tensor:
    return products.matrix(a, b.t())


def _bmm(products: Products, a: Tensor, b: Tensor) -> Tensor:
    if not len(a):
        return a.new_zeros(0, a.shape[1], b.shape[2])
    return torch.stack([products.matrix(x, y.t()) for x, y in zip(a, b, strict=True)])


def _mv(products: Products, a: Tensor, b: Tensor) -> Tensor:
    return products.matrix(a, b[None])[:, 0]


def _dot(products: Products, a: Tensor, b: Tensor) -> Tensor:
    return products.matrix(a[None], b[None])[0, 0]


def _added(multiply: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``beta * first + alpha * (a b)``."""

    def run(products: Products, first: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
        out = multiply(products, a, b)
        out = out if alpha == 1 else out * alpha
        return out if beta == 0 else out + (first if beta == 1 else first * beta)

    return run


def _convolution(
    products: Products,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Tensor:
    if transposed:
        options = (stride, padding, dilation, output_padding, groups)
        return _transposed_convolution(products, x, weight, bias, *options)
    sides, n = weight.shape[2:], weight.dim() - 2
    out: Tensor | None = None
    square = n == 2 and sides[0] == sides[1] and sides[0] % 2 == 1 and stride[0] == stride[1]
    near = square and {*dilation} == {1} and {*padding} == {sides[0] // 2} and stride[0] <= sides[0] // 2 + 1
    if near and groups == 1:
        out = products.convolution(x, weight, stride[0])
    if out is None:
        x = F.pad(x, [p for side in reversed(padding) for p in (side, side)]).movedim(1, -1).contiguous()
        spans = [d * (k - 1) + 1 for d, k in zip(dilation, sides, strict=True)]
        size = [(held - span) // s + 1 for held, span, s in zip(x.shape[1:-1], spans, stride, strict=True)]
        outs = []
        batch, *axes, channel = x.stride()
        steps = [s * axis for s, axis in zip(stride, axes, strict=True)]
        taps = [d * axis for d, axis in zip(dilation, axes, strict=True)]
        for part, own in zip(x.chunk(groups, -1), weight.chunk(groups, 0), strict=True):
            shape = (len(x), *size, *sides, part.shape[-1])  # the channels of neighbours are copied as one stretch
            windows = part.as_strided(shape, (batch, *steps, *taps, channel)).reshape(-1, own[0].numel())
            outs.append(products.matrix(windows, own.movedim(1, -1).flatten(1)))
        out = torch.cat(outs, 1).view(len(x), *size, -1).movedim(-1, 1).contiguous()
    return out if bias is None else out + bias.view(-1, *[1] * n)


def _transposed_convolution(
    products: Products,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
) -> Tensor:
    """The convolution, by the weight turned around, of x with ``stride - 1`` zeros between its pixels."""
    n, sides = len(stride), weight.shape[2:]
    spread = x.new_zeros(*x.shape[:2], *(s * (size - 1) + 1 for s, size in zip(stride, x.shape[2:], strict=True)))
    places = (slice(None), slice(None), *(slice(None, None, s) for s in stride))
    spread[places] = x
    reach = [d * (k - 1) - p for d, k, p in zip(dilation, sides, padding, strict=True)]
    pads = [p for r, o in zip(reversed(reach), reversed(output_padding), strict=True) for p in (r, r + o)]
    turned = weight.flip(tuple(range(2, 2 + n))).unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
    ones, zeros = [1] * n, [0] * n
    return _convolution(products, F.pad(spread, pads), turned, bias, ones, zeros, dilation, False, zeros, groups)


_HANDLERS: dict[str, Callable[..., Tensor]] = {
    "mm": _mm,
    "bmm": _bmm,
    "mv": _mv,
    "dot": _dot,
    "addmm": _added(_mm),
    "baddbmm": _added(_bmm),
    "addmv": _added(_mv),
    "convolution": _convolution,
}
