"""Finds the masked autoregressive flows of a model and gives them the incremental inverse."""

from __future__ import annotations

import sys
from typing import NamedTuple

from torch import nn

from ... import backends
from ..probe import random_state_kept
from ..swap import swap_of
from .inverses import FastInverse, NflowsInverse, NormflowsInverse, ZukoInverse
from .structure import NotCoveredError

# Where a library's flows are and what stands in. A library that nobody has imported has made no part of the model.
LIBRARIES: tuple[tuple[str, str, type[FastInverse]], ...] = (
    ("zuko.flows.autoregressive", "MaskedAutoregressiveTransform", ZukoInverse),
    ("nflows.transforms.autoregressive", "AutoregressiveTransform", NflowsInverse),
    ("normflows.flows.affine.autoregressive", "Autoregressive", NormflowsInverse),
)


class FlowRow(NamedTuple):
    """A row of the report: what became of one flow of a model."""

    path: str  # of the module, empty for the model itself
    kind: str  # its class
    replaced: bool  # True where it has the incremental inverse now
    reason: str  # why it was left alone; what it has now

    def __str__(self) -> str:
        return f"{self.path or '(model)':<40} {self.kind:<40} {'fast' if self.replaced else 'as it was'}: {self.reason}"


def accelerate_flows(model: nn.Module, *, backend: str = "auto") -> list[FlowRow]:
    """Gives the affine masked autoregressive flows of zuko, nflows and normflows in a model the incremental inverse.

    The calls stay: ``flow(c).inv(y)`` of zuko, ``flow.inverse(y, context)`` of the others; so do parameters, buffers,
    state_dict and the forward direction. Their D passes of the network become the work of about one, in `made_inverse`,
    whose rules hold: gradients of any order by the reference, rows that do not spoil each other. Under
    autocast it runs in the precision of the weights, and under `torch.func` a flow takes its own inverse. What a flow
    reads is watched, and the network read anew where something has changed.

    Each flow is inverted once and the result is put through its own forward direction: it is left alone where that does
    not give back what was inverted, with its log-determinant. Left alone too, each with the reason in its row: splines
    and other transforms; batch normalisation and dropout; activations other than relu, elu and tanh; residual blocks
    of zuko, and those of the others with a context or of another activation than relu; a context in normflows.

    Args:
        model: any module; nothing else in it is touched.
        backend: ``auto`` or a name of `vlae_fast.backends.report`.

    Returns:
        A row for each flow found, in the order of ``model.named_modules()``. `restore_flows` takes it all back.

    Raises:
        ValueError: no such backend. RuntimeError: the named backend cannot run a flow: says why, and changes nothing.
    """
    backends.check_name("accelerate_flows", backend)
    found = [(path, flow, fast_inverse(flow, backend)) for path, flow in model.named_modules()]
    rows = []
    for path, flow, fast in found:
        if isinstance(fast, str):
            rows.append(FlowRow(path, type(flow).__name__, False, fast))
        elif fast is not None and fast_inverse_of(flow) is fast:
            rows.append(FlowRow(path, type(flow).__name__, True, "was so before"))
        elif fast is not None:
            fast.install(flow)
            rows.append(FlowRow(path, type(flow).__name__, True, "the inverse is that of made_inverse"))
    return rows


def restore_flows(model: nn.Module) -> int:
    """Takes back what `accelerate_flows` did to a model; returns the number of flows."""
    found = [(flow, fast) for flow in model.modules() if (fast := fast_inverse_of(flow))]
    for flow, fast in found:
        fast.remove(flow)
    return len(found)


def fast_inverse(flow: nn.Module, backend: str) -> FastInverse | str | None:
    """The stand-in for a flow's inverse, to be installed if it is not yet; a reason where there can be none.

    None where the module is no flow of a library that somebody has imported.

    Raises:
        RuntimeError: the named backend cannot run it; says why.
    """
    kind = _kind(flow)
    if kind is None:
        return None
    if (installed := fast_inverse_of(flow)) is not None:
        return installed
    if any(p.is_meta for p in flow.parameters()):
        return "its parameters are on meta: nothing can be compared"
    backends.pick("made_inverse", next(flow.parameters()), backend)
    try:
        with random_state_kept(next(flow.parameters()).device):
            fast = kind(flow, backend)
    except NotCoveredError as reason:
        return str(reason)
    except Exception as error:  # another release's, or a subclass's: it is read, copied and run
        first, *_ = f"{type(error).__name__}: {error}".splitlines()
        return f"to look at it raises {first}"
    return fast


def _kind(flow: nn.Module) -> type[FastInverse] | None:
    for module, name, kind in LIBRARIES:
        base = getattr(sys.modules.get(module), name, None)
        if base is not None and isinstance(flow, base):
            return kind
    return None


def fast_inverse_of(flow: nn.Module) -> FastInverse | None:
    """The FastInverse installed on a flow, if any."""
    return swap_of(flow, FastInverse)
