"""The base of every likelihood of pixels: log-probability, mean, a draw from given noise, bits per dimension."""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Tensor

from ..plan import Emit
from ..reference import pixelcnn_draw
from .precision import wide


class Likelihood:
    """p(x | parameters), independent between pixels given their parameters; subclasses differ in the family.

    channels: C of the image. emit: how it is drawn. params: P, channels of the parameters; noises: n, planes of noise
    that a draw takes.
    levels: pixels are ``k / (levels - 1)``, k = 0..levels - 1. P and n are ordered as in `plan.Emit`.
    is_density: x may be any number, and ``log p`` is the log of a density of x, which may be above 0. Its bits per
    dimension are then counted at `levels`, see `bits_per_dim`.
    """

    kind: ClassVar[str]
    is_density: ClassVar[bool] = False

    def __init__(self, channels: int, emit: Emit, *, levels: int = 0) -> None:
        self.channels, self.emit = channels, emit
        self.levels, self.params, self.noises = levels or emit.levels, emit.params(channels), emit.noises(channels)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(channels={self.channels}, levels={self.levels})"

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """``log p(x | params)`` in nats per image, ``[B]``, of params ``[B, P, H, W]`` and x ``[B, C, H, W]``.

        It is summed in float32 at least.
        """
        expected = (params.shape[0], self.channels, *params.shape[2:])
        if params.dim() != 4 or params.shape[1] != self.params:
            raise ValueError(f"log_prob: params must be [B, {self.params}, H, W], got {tuple(params.shape)}")
        if tuple(x.shape) != expected:
            raise ValueError(f"log_prob: x must be {expected} like the logits, got {tuple(x.shape)}")
        return self._log_prob(wide(params), wide(x)).flatten(1).sum(1)

    def log_weight(self, params: Tensor, x: Tensor, known: Tensor) -> Tensor:
        """``log p(x | params) - log q(x | params, known)`` in nats of each pixel, ``[B, H, W]``: an importance weight.

        q is what a sampler draws from that clamps the channels where `known` ``[B, C, H, W]`` is set: of channels that
        are independent given the parameters, the weight is the probability of the known ones. params: as a sampler
        gives them, ``[B, P, H, W]`` of the emit.
        """
        return self._log_prob(wide(params), wide(x)).where(known, 0).sum(1)

    def mean(self, params: Tensor) -> Tensor:
        """The expected pixel, ``[B, C, H, W]``, of params ``[B, P, H, W]``; with a mixture of logistics, of the nearest
        level in the middle.
        """
        raise NotImplementedError

    def draw(self, params: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """Pixels ``[B, C, H, W]`` from noise ``[B, n, H, W]``, uniform in [0, 1); see `pixelcnn_draw.draw`."""
        return pixelcnn_draw.draw(params, noise, self.emit, temperature)

    def clip(self, images: Tensor) -> Tensor:
        """Images as pictures show them, in [0, 1]: what a draw of a density has outside is cut off."""
        return images.clamp(0, 1) if self.is_density else images

    def check(self, x: Tensor) -> None:
        """Raises ValueError unless every value of x is a level, or one that a density has."""
        off = ~self.emit.holds(x)
        if off.any():
            raise ValueError(f"{self.kind} likelihood: x must be {self.emit.rule}, got {x[off][0].item():g}")

    def bits_per_dim(self, nats: float, dims: int) -> float:
        """``nats / (dims ln 2)`` of ``-log p(x)`` of an image of so many dims, plus ``log2(levels - 1)`` for a density.

        Neighbouring levels are ``1 / (levels - 1)`` apart, and a density p puts about ``p(x) / (levels - 1)`` on the
        level x (the midpoint rule). So these are about the bits that a code of the levels takes, comparable with those
        of a likelihood of levels, where ``nats / (dims ln 2)`` alone may be negative. A density says how far it is off.
        """
        bits = nats / (dims * math.log(2))
        return bits + math.log2(self.levels - 1) if self.is_density else bits

    def index(self, x: Tensor) -> Tensor:
        """The level k of every pixel."""
        return (x * (self.levels - 1)).round().long()

    def _log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        raise NotImplementedError
