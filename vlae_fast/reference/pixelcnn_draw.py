"""The specification of how pixels are drawn from parameters, for `vlae_fast.reference.pixelcnn_sample` and likelihoods.

Shapes: B batch, C channels, P parameters and n planes of noise a pixel, K components of a mixture.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..plan import Emit


def draw(
    params: Tensor,
    noise: Tensor,
    emit: Emit,
    temperature: float,
    known_mask: Tensor | None = None,
    known: Tensor | None = None,
) -> Tensor:
    """Pixels ``[B, C, ...]`` from `params` ``[B, P, ...]`` and `noise` ``[B, n, ...]`` by the `emit`, in float64.

    Where `known_mask` is set a channel is taken from `known`, and the channels after it are drawn to fit it.

    A value v becomes level ``floor((v + 1) / 2 * (levels - 1) + 1 / 2)`` between 0 and levels - 1, and level k is the
    pixel ``k / (levels - 1)``; where levels is 0, v becomes the pixel ``(v + 1) / 2`` between 0 and 1. Noise u is
    uniform in [0, 1), or standard normal for "affine". T is the `temperature`.

        bernoulli          1 where u < sigmoid(logit / T)
        categorical        per channel, `draw_index` of logits / T
        logistic_mixture   component k = `draw_index` of its logits / T with u_0, then channel after channel
                           v = mean + T exp(log_scale) log(u / (1 - u))
        affine             shift + T exp(log_scale) noise
        continuous_bernoulli  `inverse_cdf` of logit / T at u
    """
    p, u, levels = params.double(), noise.double(), emit.levels
    if emit.kind == "bernoulli":
        x = (u < torch.sigmoid(p / temperature)).double()
    elif emit.kind == "categorical":
        x = draw_index(p.unflatten(1, (-1, levels)).movedim(2, 0) / temperature, u).double() / (levels - 1)
    elif emit.kind == "affine":
        shift, log_scale = p.chunk(2, dim=1)
        x = shift + temperature * torch.exp(log_scale) * u
    elif emit.kind == "continuous_bernoulli":
        x = inverse_cdf(p / temperature, u)
    else:
        mixture = LogisticMixture(p.unflatten(1, (-1, emit.components)), u.shape[1] - 1)
        index = draw_index(mixture.logits.movedim(1, 0) / temperature, u[:, 0])
        channels: list[Tensor] = []
        for c in range(u.shape[1] - 1):
            mean, log_scale = (choose(v, index) for v in mixture.channel(c, channels))
            v = mean + temperature * torch.exp(log_scale) * torch.logit(u[:, c + 1])
            x = pixel_of(v, levels)
            x = x if known_mask is None or known is None else torch.where(known_mask[:, c], known[:, c], x)
            channels.append(x.to(params.dtype).double())
        x = torch.stack(channels, dim=1)
    if known_mask is not None and known is not None:
        x = torch.where(known_mask, known, x)
    return x.to(params.dtype)


def pixel_of(value: Tensor, levels: int) -> Tensor:
    """The pixel in [0, 1] of a value, which is cut to [-1, 1]: one of so many levels, any where there are 0."""
    if not levels:
        return ((value + 1) / 2).clamp(0, 1)
    return ((value + 1) / 2 * (levels - 1) + 0.5).floor().clamp(0, levels - 1) / (levels - 1)


def draw_index(logits: Tensor, noise: Tensor) -> Tensor:
    """The first k of dimension 0 of `logits` ``[N, ...]`` with ``sum_{l <= k} exp(logits_l - max) > noise * total``."""
    sums = torch.exp(logits - logits.amax(0)).cumsum(0)
    return (sums[:-1] <= noise * sums[-1]).sum(0)


def inverse_cdf(logits: Tensor, noise: Tensor) -> Tensor:
    """The x in [0, 1] with ``(exp(eta x) - 1) / (exp(eta) - 1) = noise``, for eta the logits of a continuous Bernoulli.

    ``x(noise; eta) = 1 - x(1 - noise; -eta)``, so that no exponent is positive.
    """
    rate, turned = -logits.abs(), logits > 0
    share = torch.where(turned, 1 - noise, noise)
    x = torch.log1p(share * torch.expm1(rate)) / torch.where(rate == 0, 1, rate)
    x = torch.where(rate == 0, share, x).clamp(0, 1)
    return torch.where(turned, 1 - x, x)


def choose(values: Tensor, index: Tensor) -> Tensor:
    """``values[:, index]`` pixel by pixel: ``[B, K, ...]`` and ``[B, ...]`` -> ``[B, ...]``."""
    return values.gather(1, index[:, None]).squeeze(1)


class LogisticMixture:
    """`params` ``[B, 1 + 2 C + C (C - 1) / 2, K, ...]`` of a mixture of logistics, channel given channel.

    In order: logits; means of the C channels; log scales, cut to [-7, 7]; coefficients through tanh, of channel c on
    channel c' < c: (1, 0), (2, 0), (2, 1), ... The mean of c is moved by coefficient * (2 x_c' - 1).

    Source: Salimans et al. 2017, arXiv 1701.05517, section 2.
    """

    def __init__(self, params: Tensor, channels: int) -> None:
        self.logits, self.means = params[:, 0], params[:, 1 : 1 + channels]
        self.log_scales = params[:, 1 + channels : 1 + 2 * channels].clamp(-7, 7)
        self.coefficients = params[:, 1 + 2 * channels :].tanh()

    def channel(self, c: int, before: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Means and log scales ``[B, K, ...]`` of channel c, given the pixels ``[B, ...]`` of the channels before."""
        mean = self.means[:, c]
        for other, x in enumerate(before):
            mean = mean + self.coefficients[:, c * (c - 1) // 2 + other] * (2 * x[:, None] - 1)
        return mean, self.log_scales[:, c]
