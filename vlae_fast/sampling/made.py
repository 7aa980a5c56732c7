"""Drawing vectors of bits or levels from a MADE, each hidden unit computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import backends
from ..arguments import check_generator, check_tensor, whole
from ..layers import MADE
from ..layers.hooked_weight import weight_and_bias
from ..ops.made_inverse import fail
from ..ops.made_sample import made_sample
from ..ops.made_sample_levels import made_sample_levels
from ..plan import check_temperature

_COLD = 1e-6  # below, logits of the last layer's size may overflow


class MaskedNetwork(NamedTuple):
    """A MADE as layers: what `ops.made_sample` is given."""

    weights: list[Tensor]  # [O, I], of each layer
    biases: list[Tensor]  # [O]
    degrees: Sequence[Tensor]  # of the inputs, the hidden layers, the outputs
    activation: str  # of the hidden layers
    context: Tensor | None = None  # [H, context_dim], of the context's part of the first pre-activation
    tables: list[Tensor] | None = None  # of levels: what the network is given for each, see `made_sample_levels`


class MADESampler:
    """Draws x from the distribution that a MADE gives each dimension, given those before it.

    Of bits ``x_d = 1`` where ``noise_d < sigmoid(logit_d / temperature)``; of K levels x_d is the first k at which
    ``softmax(logits_d / temperature)`` summed over 0..k exceeds noise_d. D passes of the network give the same x; here
    each unit is computed once, when the dimensions that it sees are known.

    Args:
        made: a `MADE` whose output_dim is its input_dim D, a logit a dimension; of levels K D: output ``k D + d`` is
            the logit of level k of dimension d. Other people's: `fast_sampler`.
        backend: ``auto`` or a name of `vlae_fast.backends.report`; chosen once, see ``.backend``.
        pixels: what the network is given for a 0 and for a 1, as (-1, 1) of spins; of levels for the first and the
            last, with those between in equal steps, or ``"index"``: the level itself.
        levels: K of every dimension, or one for each, of which the largest is K above; None: bits.

    The weights are those of the moment: `refresh` takes them as they are now. ``.dim`` is D, ``.levels`` a tuple of
    the numbers of levels, None of bits.

    >>> MADESampler(MADE(6, 16, 6)).sample(3).shape
    torch.Size([3, 6])
    >>> MADESampler(MADE(2, 16, 8), levels=(4, 3)).sample(1000).amax(0)
    tensor([3, 2])

    Raises:
        ValueError: the MADE has another number of outputs; pixels are not finite, or equal; levels are not positive.
        RuntimeError: the named backend cannot run this.

    Source: Germain et al. 2015, arXiv 1502.03509.
    """

    caller: ClassVar[str] = "MADESampler"  # in messages about arguments of a constructor

    def __init__(
        self,
        made: MADE,
        backend: str = "auto",
        *,
        pixels: tuple[float, float] | str = (0.0, 1.0),
        levels: int | Sequence[int] | None = None,
    ) -> None:
        if not isinstance(made, MADE):
            raise TypeError(f"MADESampler: made must be a MADE, got {type(made).__name__}: see vlae_fast.fast_sampler")
        counts = levels_of("MADESampler", levels, made.input_dim)
        most, outputs = 1 if counts is None else max(counts), len(made.degrees[-1])
        if outputs != most * made.input_dim and counts is None:
            fail("MADESampler", f"made must have output_dim = input_dim = {made.input_dim}, a logit each", outputs)
        if outputs != most * made.input_dim:
            rule = f"made must have output_dim = {most} input_dim = {most * made.input_dim}, a logit for each level"
            fail("MADESampler", rule, outputs)
        check_pixels("MADESampler", pixels, counts is not None)
        self._set_up(lambda: _layers_of(made, pixels, counts), backend, counts)

    def _set_up(self, read: Callable[[], MaskedNetwork], backend: str, levels: tuple[int, ...] | None) -> None:
        """read: gives the network as it is now."""
        self._read, self.levels = read, levels
        self.refresh()
        op = "made_sample" if levels is None else "made_sample_levels"
        self.backend = backends.pick(op, self.network.weights[0], backend).name

    def __repr__(self) -> str:
        of = "" if self.levels is None else f", levels={self.levels}"
        return f"MADESampler(dim={self.dim}{of}, backend={self.backend!r})"

    @torch.no_grad()
    def refresh(self) -> None:
        """Takes the weights as they are now."""
        with without_autocast():  # the same inside and outside
            network = self._read()
        weights, biases = ([t.detach().clone() for t in tensors] for tensors in network[:2])
        _check_finite(weights, biases, network.degrees)
        context = None if network.context is None else network.context.detach().clone()
        tables = None if network.tables is None else [table.detach().clone() for table in network.tables]
        self.network = network._replace(weights=weights, biases=biases, context=context, tables=tables)
        self.dim = weights[0].shape[1] if tables is None else len(tables)

    def sample(
        self,
        n: int | None = None,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
        context: Tensor | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """x ``[B, D]`` of 0 and 1, or int64 of levels. Arguments as in `sample_with_log_prob`."""
        return self.sample_with_log_prob(n, noise, generator, context, temperature)[0]

    @torch.no_grad()
    def sample_with_log_prob(
        self,
        n: int | None = None,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
        context: Tensor | None = None,
        temperature: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """x ``[B, D]`` and its log-probability ``[B]`` in nats, under the distribution that it was drawn from.

        Args:
            n: how many, where there is no noise; the default is that of the context, else 1.
            noise: uniform in [0, 1), ``[B, D]``, in the dtype of the weights. Default: drawn from ``generator``.
            context: ``[B, context_dim]`` of a MADE that has one.
            temperature: from 1e-100 to 1e100, divides the logits.

        Raises:
            ValueError, TypeError: an argument breaks a rule above.
        """
        check_temperature("MADESampler", temperature)
        with without_autocast():
            return self._drawn(n, noise, generator, context, temperature)

    def _drawn(
        self,
        n: int | None,
        noise: Tensor | None,
        generator: torch.Generator | None,
        context: Tensor | None,
        temperature: float,
    ) -> tuple[Tensor, Tensor]:
        (*weights, weight), (*biases, bias), degrees, activation, _, tables = self.network
        if temperature != 1:
            divisor = _divisor(temperature, weight, bias)
            weight, bias = weight / divisor, bias / divisor
        cond = self._condition(context)
        n = None if n is None else whole("MADESampler", "n", n)
        if n is not None and n < 0:
            fail("MADESampler", "n must not be negative", n)
        check_generator("MADESampler", generator)
        if noise is not None:
            check_tensor("MADESampler", "noise", noise)
        if noise is None:
            batch = n if n is not None else 1 if cond is None else len(cond)
            noise = torch.rand(batch, self.dim, dtype=weight.dtype, device=weight.device, generator=generator)
        elif n is not None and n != len(noise):
            fail("MADESampler", f"n must be None or the rows of noise, {len(noise)}", n)
        weights, biases = [*weights, weight], [*biases, bias]
        options = {"activation": activation, "backend": self.backend}
        if tables is not None:
            return made_sample_levels(noise, weights, biases, degrees, tables, cond, **options)
        return made_sample(noise, weights, biases, degrees, cond, **options)

    def _condition(self, context: Tensor | None) -> Tensor | None:
        """The context's part of the first pre-activation, ``[B, H]``."""
        if context is not None:
            check_tensor("MADESampler", "context", context)
        weight, got = self.network.context, None if context is None else tuple(context.shape)
        if weight is None and context is not None:
            fail("MADESampler", "context must be None for a MADE without one", got)
        if weight is None:
            return None
        if context is None or context.dim() != 2 or context.shape[1] != weight.shape[1]:
            fail("MADESampler", f"context must be [B, {weight.shape[1]}]", got)
        return F.linear(context, weight)


@contextmanager
def without_autocast() -> Iterator[None]:
    """Leaves `torch.autocast`, on whatever device it is on."""
    with ExitStack() as left:
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                left.enter_context(torch.autocast(device, enabled=False))
        yield


def _check_finite(weights: list[Tensor], biases: list[Tensor], degrees: Sequence[Tensor]) -> None:
    """Raises ValueError where a weight that counts is not finite: what is drawn would be 0, whatever the noise."""
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        live = degrees[i + 1][:, None] >= degrees[i]  # of tables the first layer has other columns
        if not (
            (torch.where(live, weight, 0) if live.shape == weight.shape else weight).isfinite().all()
            and bias.isfinite().all()
        ):
            fail("MADESampler", f"weights and bias of layer {i} must be finite", "nan or inf")


def _divisor(temperature: float, weight: Tensor, bias: Tensor) -> float | Tensor:
    """The temperature, or where logits over it leave their dtype the least that they can be divided by.

    Over either, logits that differ do so by more than an exponential can tell from 0: the draws are the same.
    """
    if temperature >= _COLD:
        return temperature
    limits = torch.finfo(weight.dtype)
    size = torch.maximum(weight.abs().amax(), bias.abs().amax())
    return (size / limits.max**0.75).clamp(min=max(temperature, limits.tiny))


def levels_of(caller: str, levels: int | Sequence[int] | None, dim: int) -> tuple[int, ...] | None:
    """K of each of so many dimensions, or ValueError in the name of `caller`."""
    if levels is None:
        return None
    counts = (levels,) * dim if isinstance(levels, int) else tuple(levels)
    if len(counts) != dim or not all(isinstance(k, int) and k >= 1 for k in counts):
        fail(caller, f"levels must be a positive integer, or one for each of {dim} dimensions", repr(levels))
    return counts


def check_pixels(caller: str, pixels: tuple[float, float] | str, of_levels: bool) -> None:
    """Raises ValueError in the name of `caller` unless pixels are what a network can be given."""
    if of_levels and pixels == "index":
        return
    what = "for the first level and the last, or 'index'" if of_levels else "for 0 and for 1"
    fits = not isinstance(pixels, str) and len(pixels) == 2 and pixels[0] != pixels[1]
    if not fits or not all(abs(v) < float("inf") for v in pixels):  # type: ignore[arg-type]
        fail(caller, f"pixels must be two finite numbers that differ, {what}", pixels)


def _layers_of(made: Any, pixels: tuple[float, float] | str, levels: tuple[int, ...] | None) -> MaskedNetwork:
    layers = [weight_and_bias(layer) for layer in made.masked_layers()]
    context = None if made.context is None else made.context.weight
    weights, biases, degrees = [w for w, _ in layers], [b for _, b in layers], list(made.degrees)
    if levels is None:
        low, high = (float(v) for v in pixels)
        if (low, high) != (0.0, 1.0):  # W (low + (high - low) x) + b, of the weights that no mask hides
            seen = torch.where(degrees[1][:, None] >= degrees[0], weights[0], 0)
            weights[0], biases[0] = weights[0] * (high - low), biases[0] + low * seen.sum(1)
        return MaskedNetwork(weights, biases, degrees, made.activation, context)
    dim, like = made.input_dim, weights[0]
    order = torch.cat([torch.arange(d, k * dim, dim, device=like.device) for d, k in enumerate(levels)])
    weights[-1], biases[-1], degrees[-1] = weights[-1][order], biases[-1][order], degrees[-1][order]
    tables = [_numbers(k, pixels).to(like)[:, None] for k in levels]
    return MaskedNetwork(weights, biases, degrees, made.activation, context, tables)


def _numbers(levels: int, pixels: tuple[float, float] | str) -> Tensor:
    """The numbers that a network is given for each level."""
    index = torch.arange(levels, dtype=torch.float64)
    if isinstance(pixels, str):
        return index
    low, high = pixels
    return low + (high - low) * index / max(levels - 1, 1)
