"""Drawing binary vectors from a MADE, each hidden unit computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import backends
from ..layers import MADE
from ..layers.hooked_weight import weight_and_bias
from ..ops.made_inverse import fail
from ..ops.made_sample import made_sample
from ..plan import TEMPERATURES


class MaskedNetwork(NamedTuple):
    """A MADE as layers: what `ops.made_sample` is given."""

    weights: list[Tensor]  # [O, I], of each layer
    biases: list[Tensor]  # [O]
    degrees: Sequence[Tensor]  # of the inputs, the hidden layers, the outputs
    activation: str  # of the hidden layers
    context: Tensor | None = None  # [H, context_dim], of the context's part of the first pre-activation


class MADESampler:
    """Draws x in {0, 1}^D from the Bernoulli distribution that a MADE gives each dimension, given those before it.

    ``x_d = 1`` where ``noise_d < sigmoid(logit_d / temperature)``. D passes of the network give the same x; here
    each unit is computed once, when the dimensions that it sees are known.

    Args:
        made: a `MADE` whose output_dim is its input_dim: a logit a dimension. Other people's: `fast_sampler`.
        backend: ``auto`` or a name of `vlae_fast.backends.report`; chosen once, see ``.backend``.
        pixels: what the network is given for a 0 and for a 1, as (-1, 1) of spins.

    The weights are those of the moment: `refresh` takes them as they are now. ``.dim`` is D.

    >>> sampler = MADESampler(MADE(6, 16, 6))
    >>> sampler.sample(3).shape
    torch.Size([3, 6])

    Raises:
        ValueError: the MADE has another number of outputs; pixels are not finite, or equal.
        RuntimeError: the named backend cannot run this.

    Source: Germain et al. 2015, arXiv 1502.03509.
    """

    caller: ClassVar[str] = "MADESampler"  # in messages about arguments of a constructor

    def __init__(self, made: MADE, backend: str = "auto", *, pixels: tuple[float, float] = (0.0, 1.0)) -> None:
        if not isinstance(made, MADE):
            raise TypeError(f"MADESampler: made must be a MADE, got {type(made).__name__}: see vlae_fast.fast_sampler")
        if (outputs := len(made.degrees[-1])) != made.input_dim:
            fail("MADESampler", f"made must have output_dim = input_dim = {made.input_dim}, a logit each", outputs)
        self._set_up(lambda: _layers_of(made), backend, pixels)

    def _set_up(self, read: Callable[[], MaskedNetwork], backend: str, pixels: tuple[float, float]) -> None:
        """read: gives the network as it is now."""
        if len(pixels) != 2 or pixels[0] == pixels[1] or not all(abs(v) < float("inf") for v in pixels):
            fail(self.caller, "pixels must be two finite numbers that differ, for 0 and for 1", pixels)
        self.pixels = float(pixels[0]), float(pixels[1])
        self._read = read
        self.refresh()
        self.backend = backends.pick("made_sample", self.network.weights[0], backend).name

    def __repr__(self) -> str:
        return f"MADESampler(dim={self.dim}, backend={self.backend!r})"

    @torch.no_grad()
    def refresh(self) -> None:
        """Takes the weights as they are now."""
        network = self._read()
        weights, biases = ([t.detach().clone() for t in tensors] for tensors in network[:2])
        low, high = self.pixels
        if self.pixels != (0.0, 1.0):  # W (low + (high - low) x) + b
            biases[0] += low * self._seen(weights[0], network.degrees).sum(1)
            weights[0] *= high - low
        context = None if network.context is None else network.context.detach().clone()
        self.network = network._replace(weights=weights, biases=biases, context=context)
        self.dim = weights[0].shape[1]

    @staticmethod
    def _seen(weight: Tensor, degrees: Sequence[Tensor]) -> Tensor:
        """The weight without what a mask hides, which may be anything."""
        return torch.where(degrees[1][:, None] >= degrees[0], weight, 0)

    def sample(
        self,
        n: int | None = None,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
        context: Tensor | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """x ``[B, D]`` of 0 and 1. Arguments as in `sample_with_log_prob`."""
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
        if not TEMPERATURES[0] <= temperature <= TEMPERATURES[1]:
            fail("MADESampler", f"temperature must be in [{TEMPERATURES[0]}, {TEMPERATURES[1]}]", temperature)
        (*weights, weight), (*biases, bias), degrees, activation, _ = self.network
        if temperature != 1:
            weight, bias = weight / temperature, bias / temperature
        cond = self._condition(context)
        if noise is None:
            batch = n if n is not None else 1 if cond is None else len(cond)
            noise = torch.rand(batch, self.dim, dtype=weight.dtype, device=weight.device, generator=generator)
        elif n is not None and n != len(noise):
            fail("MADESampler", f"n must be None or the rows of noise, {len(noise)}", n)
        weights, biases = [*weights, weight], [*biases, bias]
        return made_sample(noise, weights, biases, degrees, cond, activation=activation, backend=self.backend)

    def _condition(self, context: Tensor | None) -> Tensor | None:
        """The context's part of the first pre-activation, ``[B, H]``."""
        weight, got = self.network.context, None if context is None else tuple(context.shape)
        if weight is None and context is not None:
            fail("MADESampler", "context must be None for a MADE without one", got)
        if weight is None:
            return None
        if context is None or context.dim() != 2 or context.shape[1] != weight.shape[1]:
            fail("MADESampler", f"context must be [B, {weight.shape[1]}]", got)
        return F.linear(context, weight)


def _layers_of(made: Any) -> MaskedNetwork:
    layers = [weight_and_bias(layer) for layer in made.masked_layers()]
    context = None if made.context is None else made.context.weight
    return MaskedNetwork([w for w, _ in layers], [b for _, b in layers], made.degrees, made.activation, context)
