"""Contract of `made_sample_levels`: draw vectors of levels from a MADE, each hidden unit computed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import backends
from ..masks import check_made_degrees
from ..reference.arguments import Layers
from . import registry
from .made_inverse import check_network, fail
from .made_sample import check_noise

_OP = "made_sample_levels"
_MOST_LEVELS = 1 << 24  # each of which a float32 can be


def made_sample_levels(
    noise: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    degrees: Sequence[Tensor],
    tables: Sequence[Tensor],
    cond: Tensor | None = None,
    *,
    activation: str = "relu",
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Draws x with x_d of 0..K_d - 1 from ``p(x) = prod_d softmax(logits_d)[x_d]``.

    The network is given row x_d of ``tables[d]`` for each dimension, side by side: a number (``x_d / (K_d - 1)``) or
    several (an embedding, a one-hot row). Its outputs are the K_0 logits of dimension 0, then the K_1 of dimension 1,
    and so on; they see the dimensions of lower degree alone. x_d is the first k at which the softmax, summed over
    0..k, exceeds noise_d, decided in float64: given the noise, x is a function.

    Args:
        noise: ``[B, D]``, uniform in [0, 1), floating point.
        weights, biases: the L masked layers, ``[O, I]`` and ``[O]``; I of the first is the sum of the E_d, O of the
            last that of the K_d.
        degrees: L + 1 integer tensors: of the inputs (a permutation of 1..D of the dimensions, each repeated for its
            E_d inputs), the hidden layers, the outputs (one less than their dimension's, for all its K_d).
        tables: D times ``[K_d, E_d]``, both at least 1.
        cond: ``[B, H]`` or None, added to the first layer's pre-activation (context).
        activation: of the hidden layers: ``relu``, ``elu`` (alpha 1), ``tanh``.
        backend: ``auto`` or a name of `vlae_fast.backends.report`.

    Returns:
        x ``[B, D]``, int64, and ``log p(x)`` ``[B]`` in nats, of the dtype of the noise. Not differentiable: score x
        by the MADE's own forward pass for gradients.

    Raises:
        ValueError, TypeError: an argument breaks a rule above.
        RuntimeError: the named backend cannot run this.

    Equivalent to::

        x = torch.zeros(B, D, dtype=torch.long)  # of K levels each
        for _ in range(D):
            logits = made(torch.cat([tables[d][x[:, d]] for d in range(D)], 1)).view(B, D, K)
            x = (logits.softmax(2).cumsum(2) <= noise[..., None]).sum(2).clamp(max=K - 1)
        log_p = logits.log_softmax(2).gather(2, x[..., None]).sum((1, 2))

    Source: Germain et al. 2015, arXiv 1502.03509; tables as in Yang et al. 2019 (Naru), arXiv 1905.04278.
    """
    layers, given = Layers(list(weights), list(biases), list(degrees), cond), list(tables)
    _check_tables(noise, given)
    check_network(_OP, "noise", noise, layers, activation)
    if len(layers.weights) != len(layers.degrees) - 1:
        fail(_OP, f"weights must be those of one MADE, {len(layers.degrees) - 1}", len(layers.weights))
    _check_degrees(layers.degrees, given)
    check_noise(_OP, noise)
    x, log_prob = torch.ops.vlae_fast.made_sample_levels(noise, *layers, given, activation, backend)
    return x, log_prob


def _check_tables(noise: Tensor, tables: Sequence[Tensor]) -> None:
    if noise.dim() != 2 or not tables or noise.shape[1] != len(tables):
        fail(_OP, "noise must be [B, D], a column for each of D >= 1 tables", f"{tuple(noise.shape)}, {len(tables)}")
    for d, table in enumerate(tables):
        if table.dim() != 2 or not 1 <= table.shape[0] <= _MOST_LEVELS or table.shape[1] < 1:
            fail(_OP, f"tables[{d}] must be [K, E] with K from 1 to {_MOST_LEVELS:,}, E >= 1", tuple(table.shape))
        if table.dtype != noise.dtype:
            raise TypeError(f"{_OP}: tables must have the dtype of noise, {noise.dtype}, got {table.dtype}")


def _check_degrees(degrees: Sequence[Tensor], tables: Sequence[Tensor]) -> None:
    counts = {0: [table.shape[1] for table in tables], -1: [table.shape[0] for table in tables]}
    for at, each in counts.items():
        if degrees[at].shape[0] != sum(each):
            what = "inputs" if at == 0 else "logits"
            fail(_OP, f"degrees[{at}] must have {sum(each)} entries, those of the {what}", degrees[at].shape[0])
    if torch.compiler.is_compiling() or degrees[0].device.type != "cpu":  # elsewhere the look would synchronise
        return
    inputs, levels = (torch.tensor(each, device="cpu") for each in counts.values())
    own = degrees[0][inputs.cumsum(0) - inputs]
    check_made_degrees(own, own - 1, _OP)
    for at, wanted in ((0, own.repeat_interleave(inputs)), (-1, (own - 1).repeat_interleave(levels))):
        if not degrees[at].equal(wanted):
            rule = "one for all inputs of a dimension" if at == 0 else "the inputs' - 1, for all logits of a dimension"
            fail(_OP, f"degrees[{at}] must be {rule}", degrees[at].tolist())


def _forward(noise: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    *tensors, tables, activation, backend = args
    x, log_prob = backends.pick(_OP, noise, backend).namespace.made_sample_levels(
        noise, Layers(*tensors), tables, activation
    )
    return x, log_prob


def _forward_fake(noise: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    return noise.new_empty(noise.shape, dtype=torch.int64), noise.new_empty(noise.shape[0])


registry.define(
    "made_sample_levels(Tensor noise, Tensor[] weights, Tensor[] biases, Tensor[] degrees, Tensor? cond, "
    "Tensor[] tables, str activation, str backend) -> (Tensor, Tensor)",
    _forward,
    _forward_fake,
)


@torch.no_grad()
def _without_graph(*args: Any) -> tuple[Tensor, Tensor]:
    x, log_prob = registry.below_autograd(_OP, *args)
    return x, log_prob


registry.autograd(_OP, _without_graph)
