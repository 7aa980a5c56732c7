"""Finds the masked autoregressive flows of a model and gives them the incremental inverse."""

from __future__ import annotations

import copy
import sys
from typing import Any, NamedTuple

import torch
from torch import nn

from ... import backends
from .inverses import FastInverse, NflowsInverse, NormflowsInverse, ZukoInverse
from .structure import NotCoveredError

# Where a library's flows are and what stands in. A library that nobody has imported has made no part of the model.
LIBRARIES: tuple[tuple[str, str, type[FastInverse]], ...] = (
    ("zuko.flows.autoregressive", "MaskedAutoregressiveTransform", ZukoInverse),
    ("nflows.transforms.autoregressive", "AutoregressiveTransform", NflowsInverse),
    ("normflows.flows.affine.autoregressive", "Autoregressive", NormflowsInverse),
)
TOLERANCE = 30  # times what the flow's own forward direction loses to rounding: an inverse rounds in another order


class FlowRow(NamedTuple):
    """What became of one flow of a model."""

    path: str  # of the module, empty for the model itself
    kind: str  # its class
    replaced: bool  # whether it has the incremental inverse now
    reason: str  # why it was left alone; what it has now

    def __str__(self) -> str:
        return f"{self.path or '(model)':<40} {self.kind:<40} {'fast' if self.replaced else 'as it was'}: {self.reason}"


def accelerate_flows(model: nn.Module, *, backend: str = "auto") -> list[FlowRow]:
    """Gives the affine masked autoregressive flows of zuko, nflows and normflows in a model the incremental inverse.

    The calls stay: ``flow(c).inv(y)`` of zuko, ``flow.inverse(y, context)`` of the others; so do parameters, buffers,
    state_dict and the forward direction. Their D passes of the network become the work of about one, in `made_inverse`,
    whose rules hold: gradients by the reference, no second derivatives.

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
        elif fast is not None and fast.is_installed:
            rows.append(FlowRow(path, type(flow).__name__, True, "was so before"))
        elif fast is not None:
            fast.install()
            rows.append(FlowRow(path, type(flow).__name__, True, "the inverse is that of made_inverse"))
    return rows


def restore_flows(model: nn.Module) -> int:
    """Takes back what `accelerate_flows` did to a model; returns to how many flows."""
    found = [fast for flow in model.modules() if (fast := fast_inverse_of(flow))]
    for fast in found:
        fast.remove()
    return len(found)


def fast_inverse(flow: nn.Module, backend: str) -> FastInverse | str | None:
    """What stands in for a flow's inverse, to be installed if it is not yet; a reason where nothing can.

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
        fast = kind(flow, backend)
        _check(flow, fast)
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
    """What an accelerated flow has."""
    kind = _kind(flow)
    found = None if kind is None else vars(flow).get(kind.method)
    return found if isinstance(found, FastInverse) else None


@torch.no_grad()
def _check(flow: Any, fast: FastInverse) -> None:
    """Raises NotCoveredError unless the flow's own forward direction undoes the inverse."""
    like = next(flow.parameters())
    generator, context_dim = torch.Generator().manual_seed(0), fast.network.context_dim(flow)
    eps = torch.randn(3, fast.network.dim, generator=generator, device="cpu").to(like)
    context = torch.randn(3, context_dim, generator=generator, device="cpu").to(like) if context_dim else None
    x, log_det = fast.inverse(eps, context)
    if not (x.isfinite().all() and log_det.isfinite().all()):
        raise NotCoveredError("its inverse is not finite at random input")
    double = copy.deepcopy(fast)
    double.flow.double()
    exact = double.transform(x.double(), None if context is None else context.double())
    own = fast.transform(x, context)
    for name, got, wanted, true in zip(("eps", "log_det"), own, (eps, log_det), exact, strict=True):
        rounding = (got - true).abs().amax() + torch.finfo(like.dtype).eps * true.abs().amax().clamp(min=1)
        apart = (got - wanted).abs().amax()
        if not apart <= TOLERANCE * rounding:
            raise NotCoveredError(f"its forward direction does not undo the inverse: {name} differs by {apart:.1e}")
