"""Likelihoods of pixels given a decoder's output: log-probability, mean, and a draw from given noise."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..plan import Emit
from ..reference import pixelcnn_draw
from .precision import wide


class Likelihood:
    """p(x | parameters), independent between pixels given their parameters; subclasses differ in the family.

    channels: C of the image. emit: how it is drawn. params: P, channels of the parameters; noises: n, planes of noise
    that a draw takes.
    levels: pixels are ``k / (levels - 1)``, k = 0..levels - 1. P and n are ordered as in `plan.Emit`.
    """

    kind: ClassVar[str]

    def __init__(self, channels: int, emit: Emit) -> None:
        self.channels, self.emit = channels, emit
        self.levels, self.params, self.noises = emit.levels, emit.params(channels), emit.noises(channels)

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

    def mean(self, params: Tensor) -> Tensor:
        """The expected pixel, ``[B, C, H, W]``, of params ``[B, P, H, W]``; with a mixture of logistics, of the nearest
        level in the middle.
        """
        raise NotImplementedError

    def draw(self, params: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """Pixels ``[B, C, H, W]`` from noise ``[B, n, H, W]``, uniform in [0, 1); see `pixelcnn_draw.draw`."""
        return pixelcnn_draw.draw(params, noise, self.emit, temperature)

    def check(self, x: Tensor) -> None:
        """Raises ValueError unless every value of x is a level."""
        off = ~self.emit.holds(x)
        if off.any():
            raise ValueError(f"{self.kind} likelihood: x must be {self.emit.rule}, got {x[off][0].item():g}")

    def index(self, x: Tensor) -> Tensor:
        """The level k of every pixel."""
        return (x * (self.levels - 1)).round().long()

    def _log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        raise NotImplementedError


class Bernoulli(Likelihood):
    """Black and white pixels by their logits; x between 0 and 1 counts as a mixture of both (as cross entropy does)."""

    kind = "bernoulli"

    def __init__(self, channels: int) -> None:
        super().__init__(channels, Emit())

    def _log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        return -F.binary_cross_entropy_with_logits(params, x, reduction="none")

    def mean(self, params: Tensor) -> Tensor:
        return params.sigmoid()


class Categorical(Likelihood):
    """A softmax over the levels of each channel; channels are independent given the pixels before."""

    kind = "categorical"

    def __init__(self, channels: int, levels: int = 256) -> None:
        super().__init__(channels, Emit("categorical", levels))

    def _log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        logits = params.unflatten(1, (self.channels, self.levels))
        return -F.cross_entropy(logits.transpose(1, 2), self.index(x), reduction="none")

    def mean(self, params: Tensor) -> Tensor:
        weights = params.unflatten(1, (self.channels, self.levels)).softmax(2)
        at = torch.linspace(0, 1, self.levels, dtype=params.dtype, device=params.device)
        return torch.einsum("bclhw,l->bchw", weights, at)


class LogisticMixture(Likelihood):
    """K logistics cut into levels, autoregressive over the channels (Salimans et al. 2017, arXiv 1701.05517).

    A level's probability is the mass within half a level of it; the ends take what lies beyond them.
    """

    kind = "logistic_mixture"

    def __init__(self, channels: int, levels: int = 256, components: int = 10) -> None:
        super().__init__(channels, Emit("logistic_mixture", levels, components))

    def _mixture(self, params: Tensor) -> pixelcnn_draw.LogisticMixture:
        return pixelcnn_draw.LogisticMixture(params.unflatten(1, (-1, self.emit.components)), self.channels)

    def _log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        mixture = self._mixture(params)
        log_prob = mixture.logits.log_softmax(1)
        for c in range(self.channels):
            mean, log_scale = mixture.channel(c, [x[:, other] for other in range(c)])
            log_prob = log_prob + self._log_mass(2 * x[:, c, None] - 1 - mean, log_scale, self.index(x[:, c, None]))
        return log_prob.logsumexp(1)

    def _log_mass(self, centred: Tensor, log_scale: Tensor, k: Tensor) -> Tensor:
        """``log(sigmoid(b) - sigmoid(a))`` between the edges a < b of level k, exact in the tails of the logistic.

        With w = b - a: ``sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(-w))``.
        """
        inverse, half = torch.exp(-log_scale), 1 / (self.levels - 1)
        below = F.logsigmoid((centred + half) * inverse)  # log of the mass below the upper edge
        above = F.logsigmoid(-(centred - half) * inverse)
        inside = below + above + torch.log(-torch.expm1(-2 * half * inverse))
        return torch.where(k == 0, below, torch.where(k == self.levels - 1, above, inside))

    def mean(self, params: Tensor) -> Tensor:
        mixture = self._mixture(params)
        channels: list[Tensor] = []
        weights = mixture.logits.softmax(1)
        for c in range(self.channels):
            mean, _ = mixture.channel(c, channels)
            channels.append((((weights * mean).sum(1) + 1) / 2).clamp(0, 1))
        return torch.stack(channels, 1)


LIKELIHOODS = ("bernoulli", "categorical", "logistic_mixture")


def make_likelihood(kind: str, channels: int, *, levels: int = 256, components: int = 10) -> Likelihood:
    """The likelihood of a kind, ``bernoulli``, ``categorical`` or ``logistic_mixture``, of images of C channels.

    levels and components: where it has them.

    >>> make_likelihood("logistic_mixture", 3).params
    100
    """
    if channels < 1:
        raise ValueError(f"likelihood: channels must be at least 1, got {channels}")
    if not 2 <= levels <= 1 << 16:
        raise ValueError(f"likelihood: levels must be from 2 to {1 << 16:,}, got {levels}")
    if not 1 <= components <= 1 << 10:
        raise ValueError(f"likelihood: components must be from 1 to {1 << 10:,}, got {components}")
    if kind == "bernoulli":
        return Bernoulli(channels)
    if kind == "categorical":
        return Categorical(channels, levels)
    if kind == "logistic_mixture":
        return LogisticMixture(channels, levels, components)
    raise ValueError(f"likelihood: must be one of {', '.join(LIKELIHOODS)}, got {kind!r}")
