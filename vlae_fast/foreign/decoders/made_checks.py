"""Checks of a traced MADE: its own outputs, the same branches for all vectors, and bits read as what they are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ... import reference
from ...reference.arguments import Layers
from ...sampling.agreement import scales
from ...sampling.made import MaskedNetwork
from ..probe import ProbeError, without_hooks
from .decisions import check_decisions
from .made_inputs import ROWS, Form
from .made_units import Ended, Units
from .output import check_bernoulli, is_of_logits
from .probabilities import refuse_probabilities

_NEAR = 1e-4  # of an output's scale: two orders of the same sums


def compare(made: nn.Module, asked: Any, form: Form, network: MaskedNetwork, out: Units | Ended, order: Tensor) -> None:
    """Raises ValueError where the network gives others than the module, for a batch or for its first vector alone."""
    like, generator = network.weights[0], torch.Generator().manual_seed(1)
    last = torch.tensor(asked.counts, device="cpu")
    levels = (torch.rand(ROWS, asked.dim, generator=generator, device="cpu") * last).long().minimum(last - 1)
    levels = levels.to(like.device)
    rows = levels.to(like)
    if network.tables is not None:
        rows = torch.cat([table[levels[:, d]] for d, table in enumerate(network.tables)], 1)
    layers = Layers(network.weights, network.biases, network.degrees)
    logits = reference.made(rows, layers, network.activation)
    if isinstance(out, Ended) and asked.levels is None:
        got = torch.sigmoid(logits)
    else:
        got = torch.empty_like(logits)
        got[:, order] = logits
        got = out.of(got) if isinstance(out, Ended) else got
    x = form.of(levels, like)
    for expected in (asked.run(made, x).flatten(1), _output_of_one(made, asked, x)):
        if expected is None:
            continue
        own = got[: len(expected)]
        error = (own - expected).abs()
        bound = _NEAR * scales(expected.T, (own == expected).T).T.clamp(min=1)
        if not (error <= bound).all():
            rule = "fast_sampler: decoder must be a function of x alone, the same in every call and batch size"
            most = error[~(error <= bound)].max()
            raise ValueError(f"{rule}, got outputs that differ from its trace by {most:.3g}")


def _output_of_one(made: nn.Module, asked: Any, x: Tensor) -> Tensor | None:
    """The outputs for the first vector alone, None where the module does not run on one."""
    try:
        output: Tensor = asked.run(made, x[:1])
        return output.flatten(1)
    except Exception:  # as by a `squeeze` of all dimensions
        return None


def check_vectors(made: nn.Module, asked: Any, form: Form, like: Tensor) -> None:
    """Raises ValueError unless a forward that asks for values gets the same answers for every vector that is tried.

    asked: `mades.Asked`, here and below.
    """
    last = torch.tensor(asked.counts, device=like.device) - 1

    def run(x: Tensor, n: int) -> None:
        asked.run(made, form.of((x.flatten(1) * last).round().long(), like))

    check_decisions(run, like.new_zeros(ROWS, 1, 1, asked.dim), 0, "vectors")


def check_end(made: nn.Module, asked: Any, form: Form, like: Tensor, of_probabilities: bool) -> None:
    """Raises ValueError where bits are given as probabilities and read as logits, or the reverse."""
    generator = torch.Generator().manual_seed(3)
    x = form.of((torch.rand(ROWS, asked.dim, generator=generator, device="cpu") < 0.5).long().to(like.device), like)
    of_logits = is_of_logits(asked.result(made, x)) if asked.output is None else None
    check_bernoulli(of_logits, of_probabilities)
    if of_logits is None and not of_probabilities:
        try:
            copied = without_hooks(made).eval()
        except ProbeError:
            return
        refuse_probabilities(copied, lambda copied: asked.run(copied, x))
