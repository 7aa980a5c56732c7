"""Stand-ins for methods of foreign flows: the inverse by one call of `made_inverse`."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from ...ops import made_inverse
from ..measured import Measured, ratio_of
from ..probe import ProbeError, random_state_kept, without_hooks
from ..swap import defaults_of, own_method, stands_in, swap_of
from ..walk import parameters_of
from ..watched import Watched, is_transformed
from .directions import DIRECTIONS, first_of, second_of
from .networks import Network, NflowsNetwork, NormflowsNetwork, ZukoNetwork
from .probed import ProbedNetwork
from .structure import NotCoveredError

I = TypeVar("I", bound="FastInverse")  # noqa: E741
_CLEAR = 3  # times as fast as all passes of the flow together: nothing more need be timed
TOLERANCE = 30  # times what the flow's own forward direction loses to rounding: an inverse rounds in another order


class FastInverse(Watched):
    """Stands in for a method of a flow. It reads the flow's network, and again when something in the flow has changed.

    The flow takes its own inverse under `torch.func` and in forward mode, and for good when it is covered no more.
    """

    reads: type[Network]

    def __init__(self, flow: Any, backend: str) -> None:
        """Raises NotCoveredError."""
        super().__init__()
        self.backend, self.verify_every, self.calls = backend, 0, 0
        self.measured = Measured(off=True)
        self.read(flow)

    def read(self, flow: Any) -> None:
        self.network = self.reads(flow)
        self._degrees: dict[torch.device, list[Tensor]] = {}
        self.check(flow)
        try:
            self.watch_anew(flow)
        except ProbeError as reason:
            raise NotCoveredError(str(reason)) from reason

    @classmethod
    def of(cls: type[I], flow: Any, eps: Tensor, context: Tensor | None) -> I | None:
        """The flow's record, up to date; None where its own inverse is to be taken, as it is the faster one.

        Once the flow is compiled, changes are not seen.
        """
        record = cls._up_to_date(flow)
        if record is None or record.measured.off or torch.compiler.is_compiling():
            return record
        return None if record.measured.prefers_own(eps, partial(record._ratio, flow, context)) else record

    def _ratio(self, flow: Any, context: Tensor | None, eps: Tensor) -> float:
        """The time of the flow's own inverse by that of the fast one; of many passes one is timed."""
        with torch.no_grad(), random_state_kept(eps.device):
            passes = getattr(flow, "passes", None) or self.network.dim
            fast = partial(self.inverse, flow, eps, context)
            ratio = passes * ratio_of(partial(self.transform, flow, eps, context), fast, eps.device)
            if ratio > _CLEAR:
                return ratio
            return ratio_of(partial(self.own_inverse, flow, eps, context), fast, eps.device)

    @classmethod
    def _up_to_date(cls: type[I], flow: Any) -> I | None:
        record = swap_of(flow, cls)
        if record is None or torch.compiler.is_compiling():
            return record
        if is_transformed():
            return None
        record, changed = record.look_at(flow)
        record.calls += 1
        if changed is None and not (record.verify_every and record.calls % record.verify_every == 0):
            return record
        changed = changed or "something that is not watched"
        try:
            record.read(flow)
        except Exception as reason:  # other people's code is read and run
            record.remove(flow)
            what = f"{changed} of a {type(flow).__name__} has changed, and the flow has its own inverse back"
            warnings.warn(f"accelerate_flows: {what}: {reason}", stacklevel=2)
            return None
        return record

    def inverse(self, flow: Any, eps: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """x ``[..., D]`` and ``log|det d eps/d x|`` ``[...]`` of eps ``[..., D]``; context ``[..., C]``.

        It runs in the precision of the weights under autocast too: D steps of half precision lose most digits.
        """
        device = eps.device.type
        if not torch.is_autocast_enabled(device):
            return self._inverse(flow, eps, context)
        with torch.autocast(device, enabled=False):
            dtype = next(p.dtype for p in flow.parameters() if p.is_floating_point())
            x, log_det = self._inverse(flow, eps.to(dtype), None if context is None else context.to(dtype))
        return x.to(eps.dtype), log_det

    def _inverse(self, flow: Any, eps: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        network = self.network
        cond = None if context is None else network.cond(flow, context)
        shape = torch.broadcast_shapes(eps.shape[:-1], () if cond is None else cond.shape[:-1])
        x, log_det = made_inverse(
            _rows(eps, shape),
            *network.arguments(flow),
            self._degrees_on(eps.device),
            None if cond is None else _rows(cond, shape),
            activation=network.activation,
            scale=network.scale,
            backend=self.backend,
        )
        return x.view(*shape, x.shape[-1]), log_det.view(shape)

    def transform(self, flow: Any, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """eps and ``log|det d eps/d x|``, by the flow's own code."""
        raise NotImplementedError

    def own_inverse(self, flow: Any, eps: Tensor, context: Tensor | None) -> Any:
        """The inverse by the flow's own code, whatever it returns."""
        raise NotImplementedError

    def _degrees_on(self, device: torch.device) -> list[Tensor]:
        # the same tensors in every call: what a GPU's kernels have planned for them is found by them
        if device not in self._degrees:
            self._degrees[device] = [degrees.to(device) for degrees in self.network.structure.degrees]
        return self._degrees[device]

    @torch.no_grad()
    def check(self, flow: Any) -> None:
        """Raises NotCoveredError unless the flow's own forward direction undoes the inverse."""
        like = next(flow.parameters())
        generator, context_dim = torch.Generator().manual_seed(0), self.network.context_dim(flow)
        eps = torch.randn(3, self.network.dim, generator=generator, device="cpu").to(like)
        context = torch.randn(3, context_dim, generator=generator, device="cpu").to(like) if context_dim else None
        with torch.autocast(like.device.type, enabled=False):
            x, log_det = self._inverse(flow, eps, context)
            if not (x.isfinite().all() and log_det.isfinite().all()):
                raise NotCoveredError("its inverse is not finite at random input")
            double = without_hooks(flow).double()
            exact = self.transform(double, x.double(), None if context is None else context.double())
            own = self.transform(flow, x, context)
        for name, got, wanted, true in zip(("eps", "log_det"), own, (eps, log_det), exact, strict=True):
            rounding = (got - true).abs().amax() + torch.finfo(like.dtype).eps * true.abs().amax().clamp(min=1)
            apart = (got - wanted).abs().amax()
            if not apart <= TOLERANCE * rounding:
                raise NotCoveredError(f"its forward direction does not undo the inverse: {name} differs by {apart:.1e}")


def _rows(x: Tensor, shape: torch.Size) -> Tensor:
    return x.expand(*shape, x.shape[-1]).reshape(-1, x.shape[-1])


class ZukoInverse(FastInverse):
    """``flow(c)`` makes a transform, as it did; its ``inv`` is the fast one."""

    method, reads = "forward", ZukoNetwork

    def transform(self, flow: Any, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return own_method(flow, "forward")(context).call_and_ladj(x)

    def own_inverse(self, flow: Any, eps: Tensor, context: Tensor | None) -> Any:
        return own_method(flow, "forward")(context)._inverse(eps)


@stands_in
def _zuko_forward(flow: Any, c: Tensor | None = None) -> Any:
    transform = own_method(flow, "forward")(c)
    if swap_of(flow, ZukoInverse) is not None:
        transform._inverse = partial(_zuko_inverse, flow, c)  # which pickles
    return transform


def _zuko_inverse(flow: Any, c: Tensor | None, y: Tensor) -> Tensor:
    record = ZukoInverse.of(flow, y, c)
    if record is not None:
        return record.inverse(flow, y, c)[0]
    own = own_method(flow, "forward")(c)
    return own._inverse(y)


ZukoInverse.function = _zuko_forward


class NflowsInverse(FastInverse):
    """``flow.inverse(inputs, context)``: x and ``log|det d x/d eps|``."""

    method, reads = "inverse", NflowsNetwork
    methods = ("inverse", "forward", "__call__")

    def transform(self, flow: Any, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return flow.forward(x, context)

    def own_inverse(self, flow: Any, eps: Tensor, context: Tensor | None) -> Any:
        return own_method(flow, "inverse")(eps, context)


@stands_in
def _nflows_inverse(flow: Any, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
    record = NflowsInverse.of(flow, inputs, context)
    if record is None:
        return own_method(flow, "inverse")(inputs, context)
    x, log_det = record.inverse(flow, inputs, context)
    return x, -log_det


NflowsInverse.function = _nflows_inverse


class NormflowsInverse(NflowsInverse):
    reads = NormflowsNetwork


class ProbedInverse(FastInverse):
    """The slow direction of a flow of nobody's library, by whatever name, checked in every call by the fast one.

    What was learnt of the flow holds where it was tried; a pass of its own fast direction says whether it holds for
    these numbers. Where it does not, the flow's own slow direction runs.
    """

    reads = ProbedNetwork  # type: ignore[assignment]
    method = "inverse"

    def read(self, flow: Any) -> None:
        network = ProbedNetwork(flow)
        kind = _BY_METHOD[network.slow.method]
        if type(self) not in (ProbedInverse, kind):
            raise NotCoveredError(f"its slow direction is {network.slow} now")
        self.__class__ = kind
        self.network = network  # type: ignore[assignment]
        self.methods = (network.slow.method, network.fast.method, "__call__")
        self.further, self.given = defaults_of(own_method(flow, network.slow.method)), dict(network.slow.given)
        self._degrees = {}
        self.check(flow)
        try:
            self.watch_anew(flow)
        except ProbeError as reason:
            raise NotCoveredError(str(reason)) from reason

    def transform(self, flow: Any, x: Tensor, context: Tensor | None) -> Any:
        return self.network.fast.of(flow, x.clone())  # type: ignore[attr-defined]

    def own_inverse(self, flow: Any, eps: Tensor, context: Tensor | None) -> Any:
        return self.network.slow.of(flow, eps.clone())  # type: ignore[attr-defined]

    def asked(self, args: tuple[Any, ...], by_name: dict[str, Any]) -> Tensor | None:
        """The u of a call of the slow direction; None where it is a call of something else."""
        given: Any = self.given
        if given and len(args) + len(by_name) == 1:
            return None
        rest = dict(zip(self.further, args[1:], strict=False)) | (by_name if args else dict([*by_name.items()][1:]))
        u = args[0] if args else next(iter(by_name.values()), None)
        if not isinstance(u, Tensor) or len(args) > len(self.further) + 1:
            return None
        wanted = self.further | given
        if any(name not in wanted for name in rest) or any(name not in rest for name in given):
            return None
        return u if all(value is wanted[name] or _same(value, wanted[name]) for name, value in rest.items()) else None

    def run(self, flow: Any, u: Tensor) -> Any:
        """The result of the slow direction for u ``[B, D]``; None where it is to run itself."""
        network: Any = self.network
        like = next(parameters_of(flow))
        if u.dim() != 2 or u.shape[1] != network.dim or u.dtype != like.dtype or u.device != like.device:
            return None
        x, log_det = self.inverse(flow, u[:, network.tail.places.to(u.device)], None)
        with torch.set_grad_enabled(torch.is_grad_enabled() and network.outputs.sign is not None):
            there = network.fast.of(flow, x.clone())
        if not _is_near(first_of(there), u):
            return None
        return network.outputs.of(x, log_det, second_of(there))

    @torch.no_grad()
    def check(self, flow: Any) -> None:
        network: Any = self.network
        like = next(flow.parameters())
        u = torch.randn(3, network.dim, generator=torch.Generator().manual_seed(0), device="cpu").to(like)
        with torch.autocast(like.device.type, enabled=False):
            x, _ = self._inverse(flow, u[:, network.tail.places.to(like.device)], None)
            if not x.isfinite().all():
                raise NotCoveredError("its inverse is not finite at random input")
            if not _is_near(first_of(network.fast.of(flow, x.clone())), u):
                raise NotCoveredError(f"its {network.fast} does not undo the inverse")


# Relative to the largest number. An inverse loses more digits than a pass; more than this is another function.
_EXACT = {torch.float64: 1e-8, torch.float32: 1e-4}


@torch.no_grad()
def _is_near(again: Tensor, u: Tensor) -> bool:
    """True where a pass gives u back, up to what is lost to rounding."""
    return len(u) == 0 or bool((again - u).abs().max() <= _EXACT[u.dtype] * (1 + u.abs().max()))


def _same(a: Any, b: Any) -> bool:
    return type(a) in (str, bool, int) and type(a) is type(b) and bool(a == b)


def _stand_in_for(method: str) -> Any:
    @stands_in
    def slow(flow: Any, *args: Any, **by_name: Any) -> Any:
        record = swap_of(flow, ProbedInverse)
        if record is None:
            return own_method(flow, method)(*args, **by_name)
        u = record.asked(args, by_name)
        if u is None:  # where one method has both directions, this is each call of the other
            return record.own(flow)(*args, **by_name)
        if (record := ProbedInverse.of(flow, u, None)) is not None:
            if (out := record.run(flow, u)) is not None:
                return out
        return own_method(flow, method)(*args, **by_name)

    return slow


# A class for each name that the method may have: a module's class is made for it, and a record is pickled by it.
_BY_METHOD = {
    name: type(
        f"ProbedInverse_{name}",
        (ProbedInverse,),
        {"method": name, "function": _stand_in_for(name), "__module__": __name__},
    )
    for name in DIRECTIONS
}
globals().update({kind.__name__: kind for kind in _BY_METHOD.values()})
