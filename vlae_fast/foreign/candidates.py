"""Which modules of a model may have a fast forward: masked layers, modules around one that mask it or activate it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .. import activations
from ..layers.conv import MaskedConv2d
from ..layers.linear import MaskedLinear
from ..layers.weight_norm import WeightNormConv2d
from .code import is_library
from .compare import Candidate
from .fast_forward import fast_forward_of, has_hooks_inside
from .probe import TOLERANCE, ProbeError, conv_taps, linear_adjacency, stand_in, trying
from .spec import conv_spec, linear_spec
from .swap import own_method

Layer = nn.Conv2d | nn.Linear
# The gate first: what halves the channels is told apart at once.
_ACTIVATIONS = sorted(
    (name for name in activations.names("masked_conv") if name != "none"), key=activations.columns, reverse=True
)


def candidate_of(layer: Layer) -> Candidate:
    """A candidate for the forward of a layer, to be compared with it. Raises ProbeError."""
    with trying("a look at it"):
        _look(layer)
        twin = stand_in(layer, torch.float64).eval()
        _look_at_weight(twin)
        return _understood(layer, "", twin, twin)


def candidates_masking(model: nn.Module, path: str) -> Iterator[tuple[str, Candidate]]:
    """Modules around a plain layer, by path, that mask it: as `self.conv.weight.data *= self.mask` or by a product.

    Where several may, the innermost comes first.
    """
    layer = model.get_submodule(path)
    for around, module in _around(model, path, path):
        if is_library(type(module)) and "forward" not in vars(module):
            continue  # nn.Sequential masks nothing
        inner = path[len(around) + bool(around) :]
        if (found := fast_forward_of(module)) is not None and found.layer_of(module) is layer:
            raise ProbeError("accelerated already, with the module around it")
        try:
            with trying("it"):
                twin = stand_in(module, torch.float64).eval()
                candidate = _understood(module, inner, twin, twin.get_submodule(inner))
        except ProbeError:
            continue
        for activation in ("none", *_ACTIVATIONS) if isinstance(layer, nn.Conv2d) else ("none",):
            yield around, candidate._replace(activation=activation)


def candidates_around(model: nn.Module, path: str, start: str, candidate: Candidate) -> Iterator[tuple[str, Candidate]]:
    """Modules around ``start``, which has a fast forward, that may be an activation of the layer at ``path``."""
    if isinstance(model.get_submodule(path), nn.Conv2d):
        for around, module in _around(model, path, start):
            inner = path[len(around) + bool(around) :]
            for activation in _ACTIVATIONS:
                yield around, candidate._replace(module=module, inner=inner, activation=activation)


def _around(model: nn.Module, path: str, start: str) -> Iterator[tuple[str, nn.Module]]:
    """The modules around ``start`` that train nothing but the layer at ``path`` and take one argument."""
    layer, around = model.get_submodule(path), start
    while around:
        around = around.rpartition(".")[0]
        module = model.get_submodule(around)
        if has_hooks_inside(module) or len(list(module.parameters())) > len(list(layer.parameters())):
            return
        if len(inspect.signature(own_method(module, "forward")).parameters) != 1:
            return
        yield around, module


def _understood(module: nn.Module, inner: str, twin: nn.Module, layer: nn.Module) -> Candidate:
    """The taps or the adjacency of a module, by a `stand_in` of it; ``layer`` is the layer within the stand-in."""
    if isinstance(layer, nn.Conv2d):
        try:
            taps = conv_taps(twin, layer)
        except ProbeError:
            if twin is layer:
                raise
            taps = conv_taps(layer, layer)  # an activation of one whose weight has zeros now
        return Candidate(module, inner, conv_spec(taps), taps.live)
    assert isinstance(layer, nn.Linear)
    live = linear_adjacency(twin, layer)
    return Candidate(module, inner, linear_spec(live), live)


def _look(module: Layer) -> None:
    """Raises ProbeError where nothing need be tried."""
    if isinstance(module, (MaskedConv2d, MaskedLinear, WeightNormConv2d)):
        raise ProbeError("a layer of vlae_fast already")
    if fast_forward_of(module) is not None:
        raise ProbeError("accelerated already")
    if any(p.is_meta or nn.parameter.is_lazy(p) for p in module.parameters()):
        raise ProbeError("its weights have no values yet")
    if unknown := {p.dtype for p in module.parameters() if p.is_complex() or p.is_floating_point()} - TOLERANCE.keys():
        raise ProbeError(f"its parameters are {unknown.pop()}")
    if type(module) in (nn.Conv2d, nn.Linear) and isinstance(vars(module).get("weight", module.weight), nn.Parameter):
        if "forward" not in vars(module):
            raise ProbeError("a plain layer: none of its weights is dead")
    if len(inspect.signature(own_method(module, "forward")).parameters) != 1:
        raise ProbeError("its forward takes more than one argument")
    if isinstance(module, nn.Conv2d):
        plain = {"stride": (1, 1), "groups": 1, "padding_mode": "zeros"}
        for name, value in plain.items():
            if (got := getattr(module, name)) != value:
                raise ProbeError(f"{name} must be {value}, it has {got}")


def _look_at_weight(layer: nn.Module) -> None:
    """Raises ProbeError where a layer has no weight, or an empty one; takes a copy of the layer.

    Reading a weight that is computed may write to buffers.
    """
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor):
        raise ProbeError("it has no weight")
    if weight.numel() == 0:
        raise ProbeError(f"its weight is empty: {tuple(weight.shape)}")
