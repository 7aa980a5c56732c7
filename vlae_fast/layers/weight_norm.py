"""Weight normalisation of convolutions, and its data-dependent initialisation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class WeightNormConv2d(nn.Conv2d):
    """A convolution with ``weight = gain * v / |v|`` per output channel (Salimans and Kingma 2016, arXiv 1602.07868).

    The parameter ``weight`` holds the direction v. Before anything is trained or initialised, gain is ``|v|``: the
    layer is the plain one. With ``weight_norm=False`` it has no gain and stays the plain one.
    """

    gain: nn.Parameter | None

    def __init__(self, *args: Any, weight_norm: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        gain = nn.Parameter(self._norm().detach()) if weight_norm else None
        self.register_parameter("gain", gain)

    def folded_weight(self) -> Tensor:
        """The weight that multiplies the input: one product per call, where a sampler folds it once."""
        return self.weight if self.gain is None else self.weight * (self.gain / self._norm())[:, None, None, None]

    def is_plain(self) -> bool:
        """True where the layer is still the plain one, neither trained nor initialised by data."""
        return self.gain is None or torch.allclose(self.gain, self._norm())

    def forward(self, x: Tensor) -> Tensor:
        """The convolution of x ``[B, C_in, H, W]`` by `folded_weight`."""
        return self._conv_forward(x, self.folded_weight(), self.bias)

    def pre_activation(self, x: Tensor) -> Tensor:
        """The convolution of x: what `initialize` gives mean 0 and variance 1."""
        return self._conv_forward(x, self.folded_weight(), self.bias)

    def _norm(self) -> Tensor:
        return torch.linalg.vector_norm(self._live(), dim=(1, 2))

    def _live(self) -> Tensor:
        """The live weights, ``[P, C_in, taps]``."""
        return self.weight.flatten(2)


@torch.no_grad()
def initialize(module: nn.Module, *inputs: Any) -> int:
    """Data-dependent initialisation: runs ``module(*inputs)`` once, and returns how many layers it initialised.

    Every weight-normalised layer, in the order in which they run, gets the gain and bias that give its pre-activation
    (without a condition) mean 0 and variance 1 in each channel over this batch. Call it once, before training.

    Source: Salimans and Kingma 2016, arXiv 1602.07868, section 3.
    """
    left = [m for m in module.modules() if isinstance(m, WeightNormConv2d) and m.gain is not None]
    done: set[nn.Module] = set()

    def standardize(layer: nn.Module, args: tuple[Any, ...]) -> None:
        if isinstance(layer, WeightNormConv2d) and layer not in done:  # tied weights are called more than once
            done.add(layer)
            _standardize(layer, args[0])

    handles = [layer.register_forward_pre_hook(standardize) for layer in left]
    try:
        module(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return len(done)


def _standardize(layer: WeightNormConv2d, x: Tensor) -> None:
    std, mean = torch.std_mean(layer.pre_activation(x), dim=(0, 2, 3), correction=0)
    scale = torch.where(std > 1e-6, 1 / std, 1)  # a constant channel has no scale
    if layer.gain is not None:
        layer.gain.mul_(scale)
    if layer.bias is not None:
        layer.bias.sub_(mean).mul_(scale)
