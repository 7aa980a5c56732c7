"""The end of a decoder of Bernoulli pixels that puts out probabilities: the logits that they are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..walk import parameters_of
from .affine import Affine, stacked, total
from .writer import Bounded, Writer

FARTHEST = 1e4  # of a logit whose probability is 0 or 1
_SPREADS = (1.0, 4.0)  # of weights that are drawn at random
_MARGIN = 0.1  # more than is added to a probability, or taken from it, to keep it away from 0 and 1


def of_sigmoid(end: Bounded) -> Bounded:
    """The same with a sigmoid where it is a tanh: ``tanh(v) = 2 sigmoid(2 v) - 1``."""
    if end.function != "tanh":
        return end
    affine = end.value.affine
    value = replace(end.value, affine=affine.scaled(torch.full_like(affine.bias, 2.0)))
    return replace(end, function="sigmoid", value=value, gain=2 * end.gain, offset=end.offset - end.gain)


def is_probability(end: Bounded) -> bool:
    """True of ``gain function(v) + offset`` that is between 0 and 1 whatever v is."""
    if end.function not in ("tanh", "sigmoid"):
        return False
    low, high = _limits(of_sigmoid(end))
    return bool((torch.minimum(low, high) >= 0).all() and (torch.maximum(low, high) <= 1).all())


def _limits(end: Bounded) -> tuple[Tensor, Tensor]:
    """``[P, h, w]``: ``gain sigmoid(v) + offset`` where v is far below 0, and far above."""
    gain, offset = torch.broadcast_tensors(end.gain.double(), end.offset.double())
    return offset, gain + offset


def logit(writer: Writer, end: Bounded) -> Affine:
    """The logit of ``p = low + (high - low) sigmoid(v)``, low and high from 0 to 1.

    It is ``log(high e^v + low) - log((1 - high) e^v + 1 - low)``, and for positive a, b
    ``log(a e^v + b) = log b + softplus(v + log(a / b))``; where a or b is 0 no softplus is left.
    """
    low, high = (t.expand(len(end.value.affine.bias), -1, -1) for t in _limits(of_sigmoid(end)))
    own, fixed = of_sigmoid(end).value.affine, low == high
    tops = [_log_sum(high, low, fixed), _log_sum(1 - high, 1 - low, fixed)]
    if all(soft.any() for _, soft, _, _ in tops):  # two that are equal cancel
        tops = [(linear, soft | fixed, shift, constant) for linear, soft, shift, constant in tops]
    const = torch.where(fixed, logit_of(low), tops[0][3] - tops[1][3])
    if any(soft.any() for _, soft, _, _ in tops):
        own = writer._settle(own)
    out = writer._plus(writer._times(own, (tops[0][0] - tops[1][0]).to(own.bias)), const.to(own.bias))
    signs = [(sign, top) for sign, top in zip((1.0, -1.0), tops, strict=True) if top[1].any()]
    if not signs:
        return out
    bent = writer._stage(stacked([writer._plus(own, shift.to(own.bias)) for _, (_, _, shift, _) in signs]), "softplus")
    index = torch.arange(bent.channels, device="cpu").view(len(signs), -1)
    for rows, (sign, (_, soft, _, _)) in zip(index, signs, strict=True):
        out = total(out, writer._times(bent.rows(rows), sign * soft.to(own.bias)))
    return out.without_zeros()


def _log_sum(a: Tensor, b: Tensor, fixed: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``log(a e^v + b) = linear v + [soft] softplus(v + shift) + constant``, zeros where it is fixed."""
    linear, soft = ((b == 0) & ~fixed).double(), (a > 0) & (b > 0) & ~fixed
    log_a, log_b = (torch.where(t > 0, t, 1.0).log() for t in (a, b))
    shift = torch.where(soft, log_a - log_b, 0.0)
    return linear, soft, shift, torch.where(fixed, 0.0, torch.where(b == 0, log_a, log_b))


def logit_of(p: Tensor) -> Tensor:
    """The logit of a probability, of a size that a number has."""
    return (p.log() - torch.log1p(-p)).clamp(-FARTHEST, FARTHEST)


@torch.no_grad()
def refuse_probabilities(copied: nn.Module, output: Callable[[nn.Module], Tensor]) -> None:
    """Raises ValueError where a copy of a decoder stays near 0 to 1, or -1 to 1, with random weights: logits do not.

    A program of such a decoder computes what it puts out, and draws other images where that is taken for logits.
    """
    generator, least = torch.Generator().manual_seed(0), 0.0
    for spread in _SPREADS:
        for parameter in parameters_of(copied):
            if parameter.is_floating_point():
                parameter.copy_(spread * torch.randn(parameter.shape, generator=generator, device="cpu"))
        try:
            out = output(copied)
        except Exception:  # other people's code, with weights that it does not expect
            return
        if not (out.abs() <= 1 + _MARGIN).all():
            return
        least = min(least, out.min().item())
    rule = "decoder must put out logits, or probabilities that are affine in one sigmoid or tanh"
    low = 0 if least >= -_MARGIN else -1
    raise ValueError(f"fast_sampler: {rule}, got outputs that are between {low} and 1 whatever its weights are")
