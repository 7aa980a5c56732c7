"""Portable mode: a model whose parameters have the same bits on every machine.

Every operation between the file and a probability is an IEEE 754 addition, product, quotient or square root, rounded
by itself, in an order that does not depend on the machine: kernels whose multiply-adds are not fused, and for what is
left of networks the functions of `numbers`. So two machines do not compute nearly the same numbers but the same ones;
why that holds, part by part, is in `docs/codec_portable.md`.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..backends import cpu
from ..layers.weight_norm import WeightNorm
from ..models.vlae import VLAE
from ..sampling import PixelCNNSampler
from ..sampling.fixed_order import FixedOrder, NativeProducts, Spread
from .numbers import Floats, exp, sigmoid, tanh

PORTABLE = "portable"  # in the place of an instruction set
ISA = "baseline"  # which every machine has, in vectors of four
WIDE = "avx2_unfused"  # the same bits where sums stay in their lanes


def kernels_of(isa: str) -> str:
    """The instruction set whose kernels compute what a file of this one says."""
    return ISA if isa == PORTABLE else isa


def plain(model: VLAE) -> VLAE:
    """A copy of a model whose layers multiply by parameters as they are; weight normalisation is folded.

    Raises:
        ValueError: a layer computes its weight in another way, or numbers too small to be normal are taken as 0.
    """
    if not float(torch.tensor([2.0**-140]) * 0.5):
        raise ValueError("codec: portable must keep numbers too small to be normal, got torch.set_flush_denormal(True)")
    plain = copy.deepcopy(model)
    for name, layer in plain.named_modules():
        if parametrize.is_parametrized(layer) or layer._forward_pre_hooks or layer._forward_hooks:
            rule = "portable must have layers of plain weights"
            raise ValueError(f"codec: {rule}, got {name} with a parametrization or hook")
        if isinstance(layer, WeightNorm) and layer.gain is not None:
            layer.weight, layer.gain = nn.Parameter(_folded(layer)), None
    return plain


def _folded(layer: WeightNorm) -> Tensor:
    """``folded_weight`` in float64, squares added one by one."""
    assert layer.gain is not None
    live = layer._live().detach().double().flatten(1).numpy()
    squares = np.add.accumulate(live * live, axis=1)[:, -1]
    factors = torch.from_numpy(layer.gain.detach().double().numpy() / np.sqrt(squares))
    shape = [1] * layer.weight.dim()
    shape[layer.axis] = -1
    return (layer.weight.detach().double() * factors.view(shape)).float()


class PortableSampler(PixelCNNSampler):
    """The cached sampler of a `plain` decoder, by the fastest kernels of this machine that have the portable bits."""

    def __init__(self, decoder: Any) -> None:
        super().__init__(decoder, "cpu", isa=ISA)
        if WIDE in cpu.isas() and all(stage.kind == "sum" for stage in self.plan.stages):
            self.isa = self._asked["isa"] = WIDE
            self._repack()

    def _spread_of(self, code_map: nn.Module, isa: str | None) -> Spread:
        return PortableSpread(code_map)


class PortableSpread(Spread):
    """A snapshot of a network whose outputs have the same bits on every machine."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network, "cpu", ISA)
        self.products = _PortableProducts(ISA)

    def __call__(self, z: Tensor) -> Tensor:
        batches = (z,) if getattr(self.network, "takes_batches", False) else z.split(1)
        with PortableOrder(self.products):
            return torch.cat([self.network(batch) for batch in batches])


class _PortableProducts(NativeProducts):
    """A convolution of any other stride than 1 adds in the order of a product of matrices, as in files of old."""

    def convolution(self, x: Tensor, weight: Tensor, stride: int) -> Tensor | None:
        return super().convolution(x, weight, stride) if stride == 1 else None


class PortableOrder(FixedOrder):
    """Inside, what PyTorch rounds in a way of its own is computed by IEEE operations, or refused."""

    def rounded(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        if found := _BY_NUMBERS.get(name.removesuffix("_")):
            out = torch.from_numpy(found(args[0].double().numpy(), *args[1:], **kwargs)).to(args[0].dtype)
            return args[0].copy_(out) if func._schema.is_mutable else out
        if name == "upsample_bilinear2d":
            return _bilinear(*args, **kwargs)
        if name in ("native_batch_norm", "_native_batch_norm_legit_no_training"):
            return _batch_norm(*args, **kwargs)
        if name == "_adaptive_avg_pool2d":
            return _adaptive_average(*args, **kwargs)
        known = ", ".join(_BY_NUMBERS)
        rule = f"networks of linear layers, convolutions, batch norms, bilinear maps, adaptive averages and {known}"
        raise ValueError(f"codec: portable must have {rule}, got {name}")


def _elu(x: Floats, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Floats:
    return np.where(x > 0, x * scale, (exp(np.minimum(x, 0) * input_scale) - 1) * (alpha * scale))


# Of float64; what comes out is rounded to the dtype of the input.
_BY_NUMBERS: dict[str, Callable[..., Floats]] = {
    "elu": _elu,
    "exp": exp,
    "sigmoid": sigmoid,
    "silu": lambda x: x * sigmoid(x),
    "tanh": tanh,
    "leaky_relu": lambda x, slope=0.01: np.where(x > 0, x, x * slope),
}


def _bilinear(
    x: Tensor,
    size: Sequence[int],
    align_corners: bool,
    *scales: float | None,
    scales_h: Any = None,
    scales_w: Any = None,
) -> Tensor:
    """``F.interpolate(x, size, mode="bilinear")``, axis after axis."""
    if align_corners or any(scale is not None for scale in (*scales, scales_h, scales_w)):
        raise ValueError("codec: portable must have bilinear maps of a size without align_corners")
    for axis, n in zip((2, 3), size, strict=True):
        held = x.shape[axis]
        at = np.maximum((np.arange(n) + 0.5) * (held / n) - 0.5, 0.0)
        first = np.minimum(at.astype(np.int64), held - 1)
        shape = [n if i == axis else 1 for i in range(4)]
        share = torch.from_numpy((at - first).astype(np.float32)).view(shape).to(x.dtype)
        low = x.index_select(axis, torch.from_numpy(first))
        high = x.index_select(axis, torch.from_numpy(np.minimum(first + 1, held - 1)))
        x = low * (1 - share) + high * share
    return x


def _adaptive_average(x: Tensor, size: Sequence[int]) -> Tensor:
    """``F.adaptive_avg_pool2d``, the pixels of a window added one by one."""
    out, (height, width) = x.new_empty((*x.shape[:2], *size)), x.shape[2:]
    for i, j in itertools.product(*map(range, size)):
        rows = range(i * height // size[0], -(-(i + 1) * height // size[0]))
        columns = range(j * width // size[1], -(-(j + 1) * width // size[1]))
        total = torch.zeros_like(out[:, :, i, j])
        for row, column in itertools.product(rows, columns):
            total = total + x[:, :, row, column]
        out[:, :, i, j] = total / (len(rows) * len(columns))
    return out


def _batch_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, var: Tensor, *options: Any) -> Any:
    """By statistics that are given; options: training where the operation has it, momentum, eps."""
    if len(options) == 3 and options[0]:
        raise ValueError("codec: portable must have batch norms in evaluation mode, got one that trains")
    shape = [1, -1] + [1] * (x.dim() - 2)
    out = (x - mean.view(shape)) / (var + options[-1]).sqrt().view(shape)
    out = out if weight is None else out * weight.view(shape)
    return (out if bias is None else out + bias.view(shape)), x.new_empty(0), x.new_empty(0)
