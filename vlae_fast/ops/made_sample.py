"""Contract of `made_sample`: draw binary vectors from a MADE, each hidden unit computed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import backends
from ..reference.arguments import Layers
from . import registry
from .made_inverse import check_layers, fail


def made_sample(
    noise: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    degrees: Sequence[Tensor],
    cond: Tensor | None = None,
    *,
    activation: str = "relu",
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Draws x in {0, 1}^D from ``p(x) = prod_d sigmoid(logit_d)^x_d (1 - sigmoid(logit_d))^(1 - x_d)``.

    ``logit_d = MADE(x)[:, d]`` sees the dimensions of lower degree alone; ``x_d = 1`` where ``noise_d <
    sigmoid(logit_d)``, decided in float64: given the noise, x is a function.

    Args:
        noise: ``[B, D]``, uniform in [0, 1), floating point.
        weights, biases: the L masked layers, ``[O, I]`` and ``[O]``; the last has D outputs, the logits.
        degrees: L + 1 integer tensors: of the inputs (a permutation of 1..D), the hidden layers, the outputs, of which
            the one that belongs to input i has its degree - 1.
        cond: ``[B, H]`` or None, added to the first layer's pre-activation (context).
        activation: of the hidden layers: ``relu``, ``elu`` (alpha 1), ``tanh``.
        backend: ``auto`` or a name of `vlae_fast.backends.report`.

    Returns:
        x ``[B, D]`` and ``log p(x)`` ``[B]`` in nats, of the dtype of the noise. Not differentiable: score x by the
        MADE's own forward pass for gradients.

    Raises:
        ValueError, TypeError: an argument breaks a rule above.
        RuntimeError: the named backend cannot run this.

    Equivalent to::

        x = torch.zeros_like(noise)
        for _ in range(D):
            x = (noise < torch.sigmoid(made(x))).to(noise)
        log_p = -F.binary_cross_entropy_with_logits(made(x), x, reduction="none").sum(1)

    Source: Germain et al. 2015, arXiv 1502.03509, section 4.1; the transform is that of `made_inverse`.
    """
    layers = Layers(list(weights), list(biases), list(degrees), cond)
    _check(noise, layers, activation)
    x, log_prob = torch.ops.vlae_fast.made_sample(noise, *layers, activation, backend)
    return x, log_prob


def _check(noise: Tensor, layers: Layers, activation: str) -> None:
    check_layers("made_sample", "noise", noise, layers, activation, {1: "a logit each"})
    if len(layers.weights) != len(layers.degrees) - 1:
        fail("made_sample", f"weights must be those of one MADE, {len(layers.degrees) - 1}", len(layers.weights))
    check_noise("made_sample", noise)


def check_noise(op: str, noise: Tensor) -> None:
    """Raises ValueError in the name of `op` unless the noise is in [0, 1)."""
    # elsewhere the look would synchronise
    if noise.device.type == "cpu" and noise.numel() and not (0 <= noise.min() and noise.max() < 1):  # false for NaN too
        fail(op, "noise must be in [0, 1)", noise[~((noise >= 0) & (noise < 1))][0].item())


def _forward(noise: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    *tensors, activation, backend = args
    x, log_prob = backends.pick("made_sample", noise, backend).namespace.made_sample(
        noise, Layers(*tensors), activation
    )
    return x, log_prob


def _forward_fake(noise: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    return noise.new_empty(noise.shape), noise.new_empty(noise.shape[0])


registry.define(
    "made_sample(Tensor noise, Tensor[] weights, Tensor[] biases, Tensor[] degrees, Tensor? cond, str activation, "
    "str backend) -> (Tensor, Tensor)",
    _forward,
    _forward_fake,
)


@torch.no_grad()
def _without_graph(*args: Any) -> tuple[Tensor, Tensor]:
    x, log_prob = registry.below_autograd("made_sample", *args)
    return x, log_prob


registry.autograd("made_sample", _without_graph)
