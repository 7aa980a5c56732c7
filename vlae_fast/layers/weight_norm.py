"""Weight normalisation of layers, and its data-dependent initialisation."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class WeightNorm(nn.Module):
    """Base of layers with ``weight = gain * v / |v|`` per output channel (Salimans and Kingma 2016, arXiv 1602.07868).

    The parameter ``weight`` holds the direction v. Before anything is trained or initialised, gain is ``|v|``: the
    layer is the plain one. With ``weight_norm=False`` it has no gain and stays the plain one.
    """

    weight: Tensor
    bias: Any
    gain: nn.Parameter | None
    axis: ClassVar[int] = 0  # of the weight's output channels

    def __init__(self, *args: Any, weight_norm: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        gain = nn.Parameter(self._norm().detach()) if weight_norm else None
        self.register_parameter("gain", gain)

    def folded_weight(self) -> Tensor:
        """The weight that multiplies the input: one product per call, where a sampler folds it once."""
        if self.gain is None:
            return self.weight
        shape = [1] * self.weight.dim()
        shape[self.axis] = -1
        return self.weight * (self.gain / self._norm()).view(shape)

    def is_plain(self) -> bool:
        """True where the layer is still the plain one, neither trained nor initialised by data."""
        return self.gain is None or torch.allclose(self.gain, self._norm())

    def forward(self, x: Tensor) -> Tensor:
        """The plain layer's output by `folded_weight`."""
        return self.pre_activation(x)

    def pre_activation(self, x: Tensor) -> Tensor:
        """The plain layer's output, channels second: what `initialize` gives mean 0 and variance 1."""
        raise NotImplementedError

    def _norm(self) -> Tensor:
        return torch.linalg.vector_norm(self._live(), dim=(1, 2))

    def _live(self) -> Tensor:
        """The live weights, ``[P, C_in, taps]``."""
        return self.weight.transpose(0, self.axis).unsqueeze(-1).flatten(2)


class WeightNormConv2d(WeightNorm, nn.Conv2d):
    """A weight-normalised `torch.nn.Conv2d`, see `WeightNorm`: x ``[B, C_in, H, W]`` -> ``[B, P, H', W']``."""

    def pre_activation(self, x: Tensor) -> Tensor:
        """The convolution of x by `folded_weight`."""
        return self._conv_forward(x, self.folded_weight(), self.bias)


class WeightNormConvTranspose2d(WeightNorm, nn.ConvTranspose2d):  # type: ignore[misc]  # its forward has no output_size
    """A weight-normalised `torch.nn.ConvTranspose2d` of one group, see `WeightNorm`."""

    axis = 1

    def pre_activation(self, x: Tensor) -> Tensor:
        """The transposed convolution of x ``[B, C_in, H, W]`` by `folded_weight`."""
        how: Any = (self.stride, self.padding, self.output_padding, 1, self.dilation)
        return F.conv_transpose2d(x, self.folded_weight(), self.bias, *how)


class WeightNormLinear(WeightNorm, nn.Linear):
    """A weight-normalised `torch.nn.Linear`, see `WeightNorm`: x ``[B, I]`` -> ``[B, O]``."""

    def pre_activation(self, x: Tensor) -> Tensor:
        """The product of x and `folded_weight`, and the bias."""
        return F.linear(x, self.folded_weight(), self.bias)


@torch.no_grad()
def initialize(module: nn.Module, *inputs: Any) -> int:
    """Data-dependent initialisation: runs ``module(*inputs)`` once, and returns how many layers it initialised.

    Every weight-normalised layer, in the order in which they run, gets the gain and bias that give its pre-activation
    (without a condition) mean 0 and variance 1 in each channel over this batch. Call it once, before training. Buffers,
    such as the running statistics of batch normalisation, are left as they are.

    Source: Salimans and Kingma 2016, arXiv 1602.07868, section 3.
    """
    left = [m for m in module.modules() if isinstance(m, WeightNorm) and m.gain is not None]
    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    done: set[nn.Module] = set()

    def standardize(layer: nn.Module, args: tuple[Any, ...]) -> None:
        if isinstance(layer, WeightNorm) and layer not in done:  # tied weights are called more than once
            done.add(layer)
            _standardize(layer, args[0])

    handles = [layer.register_forward_pre_hook(standardize) for layer in left]
    try:
        module(*inputs)
    finally:
        for handle in handles:
            handle.remove()
        for buffer, values in before:
            buffer.copy_(values)
    return len(done)


def _standardize(layer: WeightNorm, x: Tensor) -> None:
    sums = layer.pre_activation(x)
    std, mean = torch.std_mean(sums, dim=(0, *range(2, sums.dim())), correction=0)
    scale = torch.where(std > 1e-6, 1 / std, 1)  # a constant channel has no scale
    if layer.gain is not None:
        layer.gain.mul_(scale)
    if layer.bias is not None:
        layer.bias.sub_(mean).mul_(scale)
