"""Finds the masked autoregressive flows of a model and gives them the incremental inverse."""

from __future__ import annotations

import sys
from typing import NamedTuple

from torch import nn

from ... import backends
from ...arguments import check_module
from ..measured import Measured
from ..probe import random_state_kept
from ..swap import swap_of
from ..walk import named_parts, parameters_of, part_at, parts_of
from .directions import NoFlowError, may_be_flow
from .inverses import FastInverse, NflowsInverse, NormflowsInverse, ProbedInverse, ZukoInverse
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


def accelerate_flows(model: nn.Module, *, backend: str = "auto", measure: bool = True) -> list[FlowRow]:
    """Gives the affine masked autoregressive flows in a model the incremental inverse.

    They are those of zuko, nflows (also copies of its code) and normflows, and modules of anybody's with two methods of
    which one is a pass of a masked network and the other the passes back: these are found by what the methods compute.

    The calls stay: ``flow(c).inv(y)`` of zuko, ``flow.inverse(y, context)`` of the others; so do parameters, buffers,
    state_dict and the forward direction. Their D passes of the network become the work of about one, in `made_inverse`,
    whose rules hold: gradients of any order by the reference, rows that do not spoil each other. Under
    autocast it runs in the precision of the weights, and under `torch.func` a flow takes its own inverse. What a flow
    reads is watched, and the network read anew where something has changed.

    Each flow is inverted once and the result is put through its own forward direction: it is left alone where that does
    not give back what was inverted, with its log-determinant. Left alone too, each with the reason in its row: splines
    and other transforms; batch normalisation and dropout; activations other than relu, elu and tanh; residual blocks
    of zuko, and those of the others with a context or of another activation than relu; a context in normflows. The
    inverse of a flow of no library is also checked in every call, by one pass; its own runs where the check fails.

    Args:
        model: any module; nothing else in it is touched.
        backend: ``auto`` or a name of `vlae_fast.backends.report`.
        measure: times an inverse and its passes in the first call of a size, and takes the faster; False: takes the
            inverse.

    Returns:
        A row for each flow found, in the order of ``model.named_modules()``. `restore_flows` takes it all back.

    Raises:
        ValueError: no such backend. RuntimeError: the named backend cannot run a flow: says why, and changes nothing.
    """
    check_module("accelerate_flows", "model", model)
    backends.check_name("accelerate_flows", backend)
    rows = []
    for path, flow, fast in inverses_in(model, backend):
        if isinstance(fast, str):
            rows.append(FlowRow(path, type(flow).__name__, False, fast))
        elif fast is not None and fast_inverse_of(flow) is fast:
            rows.append(FlowRow(path, type(flow).__name__, True, "was so before"))
        elif fast is not None:
            fast.measured = Measured(off=not measure)
            fast.install(flow)
            rows.append(FlowRow(path, type(flow).__name__, True, "the inverse is that of made_inverse"))
    return rows


def restore_flows(model: nn.Module) -> int:
    """Takes back what `accelerate_flows` did to a model; returns the number of flows."""
    check_module("restore_flows", "model", model)
    found = [(flow, fast) for flow in parts_of(model) if (fast := fast_inverse_of(flow))]
    for flow, fast in found:
        fast.remove(flow)
    return len(found)


def inverses_in(model: nn.Module, backend: str) -> list[tuple[str, nn.Module, FastInverse | str]]:
    """Path, flow and the stand-in for its inverse, or the reason against one, in the order of the model's modules.

    A module around flows that have been found is no flow itself, and has no reason.
    """
    parts = list(named_parts(model))
    found: dict[str, FastInverse | str] = {}
    for path, flow in reversed(parts):  # from the inside
        inside = f"{path}." if path else ""
        # of a library: whatever became of it, a chain of such is nothing new
        of_library = {other for other in found if _kinds(part_at(model, other))}
        taken = {other for other, fast in found.items() if not isinstance(fast, str)} | of_library
        fast = fast_inverse(flow, backend, probe=not any(other.startswith(inside) for other in taken))
        if fast is not None:
            found[path] = fast
    return [(path, flow, found[path]) for path, flow in parts if path in found]


def fast_inverse(flow: nn.Module, backend: str, *, probe: bool = True) -> FastInverse | str | None:
    """The stand-in for a flow's inverse, to be installed if it is not yet; a reason where there can be none.

    None where the module is no flow that is known. probe: whether to try what is of no library that somebody imported.

    Raises:
        RuntimeError: the named backend cannot run it; says why.
    """
    if (installed := fast_inverse_of(flow)) is not None:
        return installed
    known = _kinds(flow)
    kinds = [*known, ProbedInverse] if probe and may_be_flow(flow) else known
    if not kinds:
        return None
    if any(p.is_meta for p in parameters_of(flow)):
        return "its parameters are on meta: nothing can be compared" if known else None
    like = next(parameters_of(flow))
    backends.pick("made_inverse", like, backend)
    reason = None
    for kind in kinds:
        try:
            with random_state_kept(like.device):
                return kind(flow, backend)
        except NoFlowError:
            continue
        except NotCoveredError as error:
            reason = reason or str(error)
        except Exception as error:  # another release's, or a subclass's: it is read, copied and run
            first, *_ = f"{type(error).__name__}: {error}".splitlines()
            reason = reason or f"to look at it raises {first}"
    return reason


def _kinds(flow: nn.Module) -> list[type[FastInverse]]:
    """The kinds to try for a flow: that of its library, also where the library's code was copied to somewhere else."""
    for module, name, kind in LIBRARIES:
        base = getattr(sys.modules.get(module), name, None)
        if base is not None and isinstance(flow, base):
            return [kind]
    copied = {"AutoregressiveTransform", "Autoregressive"} & {kind.__name__ for kind in type(flow).__mro__}
    return [NflowsInverse, NormflowsInverse] if copied and hasattr(flow, "autoregressive_net") else []


def fast_inverse_of(flow: nn.Module) -> FastInverse | None:
    """The FastInverse installed on a flow, if any."""
    return swap_of(flow, FastInverse)
