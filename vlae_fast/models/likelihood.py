"""The likelihoods of pixels given a decoder's output, by name; those of levels, and of black and white."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..arguments import whole
from ..plan import Emit
from ..reference import pixelcnn_draw, pixelcnn_score
from .densities import ContinuousBernoulli, Gaussian
from .likelihood_base import Likelihood
from .precision import wide

__all__ = [
    "LIKELIHOODS",
    "Bernoulli",
    "Categorical",
    "ContinuousBernoulli",
    "Gaussian",
    "Likelihood",
    "LogisticMixture",
    "make_likelihood",
]


class Bernoulli(Likelihood):
    """Black and white pixels by their logits; x between 0 and 1 counts as a mixture of both.

    That is the binary cross entropy which is often taken of grey values: no log-probability of them, since it does not
    sum or integrate to 1 over x. `ContinuousBernoulli` is the density of the same form.
    """

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

    With levels = 0 a pixel is what the logistics give, cut to [0, 1] as public samplers of PixelCNN++ do, and not
    rounded. Its law is a density inside, ``sum_k w_k p_k(2 x - 1) * 2`` with p_k that of a logistic, and at 0 and 1
    the mass that lies beyond: `log_prob` is the logarithm of the one or the other.
    """

    kind = "logistic_mixture"

    def __init__(self, channels: int, levels: int = 256, components: int = 10) -> None:
        super().__init__(channels, Emit("logistic_mixture", levels, components))

    def _mixture(self, params: Tensor) -> pixelcnn_draw.LogisticMixture:
        return pixelcnn_draw.LogisticMixture(params.unflatten(1, (-1, self.emit.components)), self.channels)

    def _log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        return pixelcnn_score.of_mixture(params, x, self.emit)

    def log_weight(self, params: Tensor, x: Tensor, known: Tensor) -> Tensor:
        params, x = wide(params), wide(x)
        return self._log_prob(params, x) - pixelcnn_score.of_mixture(params, x, self.emit, of=~known)

    def bits_per_dim(self, nats: float, dims: int) -> float:
        if not self.emit.levels:
            rule = "likelihood must have levels, or be a density everywhere"
            raise ValueError(f"bits_per_dim: {rule}, got a logistic_mixture with masses at 0 and 1")
        return super().bits_per_dim(nats, dims)

    def mean(self, params: Tensor) -> Tensor:
        mixture = self._mixture(params)
        channels: list[Tensor] = []
        weights = mixture.logits.softmax(1)
        for c in range(self.channels):
            mean, _ = mixture.channel(c, channels)
            channels.append((((weights * mean).sum(1) + 1) / 2).clamp(0, 1))
        return torch.stack(channels, 1)


LIKELIHOODS = ("bernoulli", "categorical", "logistic_mixture", "gaussian", "continuous_bernoulli")


def make_likelihood(
    kind: str, channels: int, *, levels: int = 256, components: int = 10, sigma: float | None = None
) -> Likelihood:
    """The likelihood of a kind of images of C channels.

    Args:
        kind: ``bernoulli`` (black and white), ``categorical`` or ``logistic_mixture`` (levels), ``gaussian`` or
            ``continuous_bernoulli`` (densities of grey and colour values).
        levels: of the images, where they are not black and white; 0 for a logistic_mixture that is not rounded.
        components: of a mixture.
        sigma: standard deviation of a gaussian, None: learnt.

    >>> make_likelihood("logistic_mixture", 3).params
    100
    """
    for name, value in (("channels", channels), ("levels", levels), ("components", components)):
        whole("likelihood", name, value)
    if channels < 1:
        raise ValueError(f"likelihood: channels must be at least 1, got {channels}")
    if not 2 <= levels <= 1 << 16 and not (levels == 0 and kind == "logistic_mixture"):
        zero = ", or 0" if kind == "logistic_mixture" else ""
        raise ValueError(f"likelihood: levels must be from 2 to {1 << 16:,}{zero}, got {levels}")
    if not 1 <= components <= 1 << 10:
        raise ValueError(f"likelihood: components must be from 1 to {1 << 10:,}, got {components}")
    if sigma is not None and kind != "gaussian":
        raise ValueError(f"likelihood: sigma must be None for a {kind!r} likelihood, got {sigma}")
    if kind == "bernoulli":
        return Bernoulli(channels)
    if kind == "categorical":
        return Categorical(channels, levels)
    if kind == "logistic_mixture":
        return LogisticMixture(channels, levels, components)
    if kind == "gaussian":
        return Gaussian(channels, levels, sigma=sigma)
    if kind == "continuous_bernoulli":
        return ContinuousBernoulli(channels, levels)
    raise ValueError(f"likelihood: must be one of {', '.join(LIKELIHOODS)}, got {kind!r}")
