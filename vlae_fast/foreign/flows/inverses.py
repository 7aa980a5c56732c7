"""What stands in for a method of a foreign flow: the inverse by one call of `made_inverse`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...ops import made_inverse
from ..changes import Kept
from .networks import Network, NflowsNetwork, NormflowsNetwork, ZukoNetwork
from .structure import NotCoveredError


class FastInverse:
    """An attribute of the flow, in place of the method of that name. It is copied, moved and pickled with the flow."""

    method: str
    reads: type[Network]

    def __init__(self, flow: Any, backend: str) -> None:
        self.flow, self.backend = flow, backend
        self._read()

    @property
    def is_installed(self) -> bool:
        return vars(self.flow).get(self.method) is self

    def install(self) -> None:
        setattr(self.flow, self.method, self)
        self._on_load = self.flow.register_load_state_dict_post_hook(self._read)

    def remove(self) -> None:
        self._on_load.remove()
        if self.is_installed:
            delattr(self.flow, self.method)

    def _read(self, *_: Any) -> None:
        """Reads the masks, again where a state_dict has brought others."""
        self.network = self.reads(self.flow)
        self._degrees: dict[torch.device, list[Tensor]] = {}
        self._parts = list(self.flow.modules())
        self._masks = [Kept(part, "mask") for part in self._parts if isinstance(getattr(part, "mask", None), Tensor)]

    def _read_if_changed(self) -> None:
        """Other masks or layers are another network. What is compiled is not looked at."""
        if torch.compiler.is_compiling():
            return
        if self._parts != list(self.flow.modules()) or any(mask.has_changed() for mask in self._masks):
            try:
                self._read()
            except NotCoveredError as reason:
                rule = "accelerate_flows: a flow must stay one that is covered, until restore_flows"
                raise ValueError(f"{rule}: of a {type(self.flow).__name__} {reason}") from reason

    def inverse(self, eps: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """x ``[..., D]`` and ``log|det d eps/d x|`` ``[...]`` of eps ``[..., D]``; context ``[..., C]``."""
        self._read_if_changed()
        network = self.network
        cond = None if context is None else network.cond(self.flow, context)
        shape = torch.broadcast_shapes(eps.shape[:-1], () if cond is None else cond.shape[:-1])
        x, log_det = made_inverse(
            _rows(eps, shape),
            *network.arguments(self.flow),
            self._degrees_on(eps.device),
            None if cond is None else _rows(cond, shape),
            activation=network.activation,
            scale=network.scale,
            backend=self.backend,
        )
        return x.view(*shape, x.shape[-1]), log_det.view(shape)

    def transform(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """eps and ``log|det d eps/d x|``, by the flow's own code."""
        raise NotImplementedError

    def _degrees_on(self, device: torch.device) -> list[Tensor]:
        # the same tensors in every call: what a GPU's kernels have planned for them is found by them
        if device not in self._degrees:
            self._degrees[device] = [degrees.to(device) for degrees in self.network.structure.degrees]
        return self._degrees[device]


def _rows(x: Tensor, shape: torch.Size) -> Tensor:
    return x.expand(*shape, x.shape[-1]).reshape(-1, x.shape[-1])


class ZukoInverse(FastInverse):
    """``flow(c)`` makes a transform, as it did; its ``inv`` is the fast one."""

    method, reads = "forward", ZukoNetwork

    def __call__(self, c: Tensor | None = None) -> Any:
        transform = self._own(c)
        transform._inverse = lambda y: self.inverse(y, c)[0]
        return transform

    def transform(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self._own(context).call_and_ladj(x)

    def _own(self, c: Tensor | None) -> Any:
        return type(self.flow).forward(self.flow, c)


class NflowsInverse(FastInverse):
    """``flow.inverse(inputs, context)``: x and ``log|det d x/d eps|``."""

    method, reads = "inverse", NflowsNetwork

    def __call__(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x, log_det = self.inverse(inputs, context)
        return x, -log_det

    def transform(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.flow.forward(x, context)


class NormflowsInverse(NflowsInverse):
    reads = NormflowsNetwork
