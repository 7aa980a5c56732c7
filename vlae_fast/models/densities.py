"""Likelihoods of grey and colour values that are densities: of a pixel's value itself, not of a level."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..plan import Emit
from ..reference import pixelcnn_draw, pixelcnn_score
from ..sampling.program import Program
from .likelihood_base import Likelihood
from .precision import wide

_CENTRE = ((0, 0),)


class Gaussian(Likelihood):
    """``log N(x; mean, sigma^2)`` of every pixel and channel: squared error, weighted by what sigma is.

    Args:
        channels: C. levels: of the images, which bound a learnt sigma and are what bits per dimension are counted at.
        sigma: the standard deviation of all pixels; None: learnt, one of each pixel and channel.

    Parameters ``[B, P, H, W]``: the means; where sigma is learnt, then C numbers s. ``log sigma`` is s between
    ``log(least) + 1`` and -1, and bends towards ``log(least)`` below and 0 above:
    ``log(least) + exp(s - log(least) - 1)`` and ``-exp(-1 - s)``. The least sigma is half the distance of two levels,
    ``1 / (2 (levels - 1))``. Without it the density of images that are bytes is unbounded: a pixel that is always 0
    costs as little as one likes. Without the largest, 1, a decoder that sees its own draws may drive them to infinity.

    Given sigma, ``log p(x) = -sum((x - mean)^2) / (2 sigma^2)`` up to a constant, so that the best means are those of
    the mean squared error; ``sigma = sqrt(1 / 2)`` weighs it against the KL as tutorials do that add the two.

    A draw may leave [0, 1]; `clip` cuts that off for pictures. With a learnt sigma, bits per dimension as
    `bits_per_dim` counts them are at most 0.021 below the cost of a code of the levels:
    ``sum_k N(k / (levels - 1)) / (levels - 1)`` is at most ``1 + 2 exp(-pi^2 / 2) + ...`` < 1.0145 by Poisson's
    formula, for every mean and every sigma from the least on.
    """

    kind = "gaussian"
    is_density = True

    def __init__(self, channels: int, levels: int = 256, *, sigma: float | None = None) -> None:
        if sigma is not None and not 0 < sigma < math.inf:
            raise ValueError(f"likelihood: sigma must be finite and > 0, got {sigma}")
        super().__init__(channels, Emit("affine", 0), levels=levels)
        self.sigma = sigma
        self.params = channels if sigma is not None else 2 * channels
        self._low = 1 - math.log(2 * (levels - 1))  # below, s bends towards the least log sigma, one less
        self._high = max(-1.0, self._low)  # above, towards the largest, one more; of few levels the two meet

    def __repr__(self) -> str:
        sigma = "learnt" if self.sigma is None else f"{self.sigma:g}"
        return f"Gaussian(channels={self.channels}, levels={self.levels}, sigma={sigma})"

    def head(self, params: Tensor) -> Tensor:
        """Means and log sigmas, ``[B, 2 C, H, W]``, of the parameters: what a pixel is drawn from."""
        mean, s = params[:, : self.channels], params[:, self.channels :]
        if self.sigma is not None:
            return torch.cat([mean, torch.full_like(mean, math.log(self.sigma))], 1)
        bent = F.elu(s - self._low) + self._low
        return torch.cat([mean, self._high - F.elu(self._high - bent)], 1)

    def write_head(self, program: Program) -> None:
        """Appends the stages of `head` to a sampler's program."""
        last, like = len(program.stages), program.weights[-1]
        eye = torch.eye(self.channels, dtype=like.dtype, device=like.device)[:, :, None, None]
        none = torch.zeros_like(eye)

        def bias(of_scale: float) -> Tensor:
            return torch.cat([like.new_zeros(self.channels), like.new_full((self.channels,), of_scale)])

        if self.sigma is not None:
            program.add([(last, torch.cat([eye, none]), _CENTRE)], bias(math.log(self.sigma)))
            return
        shift = like.new_ones(self.channels)
        bent = program.add([(last, torch.cat([none, eye], 1), _CENTRE)], -self._low * shift, "elu")
        capped = program.add([(bent, -eye, _CENTRE)], (self._high - self._low) * shift, "elu")
        means = torch.cat([torch.cat([eye, none], 1), torch.cat([none, none], 1)])
        program.add([(last, means, _CENTRE), (capped, torch.cat([none, -eye]), _CENTRE)], bias(self._high))

    def draw(self, params: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """Pixels ``mean + temperature sigma noise`` ``[B, C, H, W]``, from standard normal noise ``[B, C, H, W]``."""
        return pixelcnn_draw.draw(self.head(params), noise, self.emit, temperature)

    def mean(self, params: Tensor) -> Tensor:
        return params[:, : self.channels]

    def log_weight(self, params: Tensor, x: Tensor, known: Tensor) -> Tensor:
        return self._log_normal(wide(params), wide(x)).where(known, 0).sum(1)  # a sampler gives them behind the head

    def _log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        return self._log_normal(self.head(params), x)

    @staticmethod
    def _log_normal(drawn_from: Tensor, x: Tensor) -> Tensor:
        mean, log_sigma = drawn_from.chunk(2, 1)
        return pixelcnn_score.of_normal(mean, log_sigma, x)


class ContinuousBernoulli(Likelihood):
    """Grey values: ``p(x) = lambda^x (1 - lambda)^(1 - x) / Z`` on [0, 1], by the logit eta of lambda.

    It is the cross entropy of `Bernoulli` with the constant that makes it a density: ``log p(x) = eta (x - 1/2) -
    log(sinh(eta / 2) / (eta / 2))``. It is drawn in one pass only, for decoders that do not look at the image.

    A density on values that are bytes can be high where they lie, at 0 and 1: bits per dimension, as `bits_per_dim`
    counts them, are below the cost of a code of the levels by at most ``log2(1 + max p / (levels - 1))``.

    Source: Loaiza-Ganem and Cunningham 2019, arXiv 1907.06845.
    """

    kind = "continuous_bernoulli"
    is_density = True

    def __init__(self, channels: int, levels: int = 256) -> None:
        super().__init__(channels, Emit("continuous_bernoulli", 0), levels=levels)

    def _log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        return pixelcnn_score.of_continuous_bernoulli(params, x)

    def mean(self, params: Tensor) -> Tensor:
        """``1/2 + (coth(eta / 2) - 2 / eta) / 2``, ``[B, C, H, W]``."""
        near = params.abs() < 0.5
        eta, small = torch.where(near, 1, params), torch.where(near, params, 0)
        square = small * small
        series = 0.5 + small / 12 * (1 - square / 60 * (1 - square / 42 * (1 - square / 40 * (1 - square / 39.6))))
        return torch.where(near, series, -1 / torch.expm1(-eta) - 1 / eta)
