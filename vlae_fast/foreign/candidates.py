"""Which modules of a model may have a fast forward: masked layers, modules around one that mask it or activate it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from .. import activations
from ..layers.conv import MaskedConv2d
from ..layers.linear import MaskedLinear
from ..layers.weight_norm import WeightNormConv2d
from .by_op import Cond, Crops
from .code import is_library
from .compare import Candidate
from .fast_forward import FastCall, FastForward, Form, fast_forward_of, has_hooks_inside
from .layer import Layer, has_mask, names_of
from .probe import TOLERANCE, ConvTaps, ProbeError, conv_taps, like_of, linear_adjacency, stand_in, trying
from .spec import ConvSpec, conv_spec, linear_spec
from .swap import method_of_class, own_method
from .walk import named_parts, parameters_of, part_at

# The gate first: what halves the channels is told apart at once.
_ACTIVATIONS = sorted(
    (name for name in activations.names("masked_conv") if name != "none"), key=activations.columns, reverse=True
)


def candidate_of(layer: nn.Conv2d | nn.Linear) -> Candidate:
    """A candidate for the forward of a layer, to be compared with it. Raises ProbeError."""
    with trying("a look at it"):
        _look(layer)
        twin = stand_in(layer, torch.float64).eval()
        _look_at_weight(twin)
        return _understood(layer, Form(), twin)


def candidates_of(module: nn.Module) -> Iterator[Candidate]:
    """Candidates for a module that has a weight, but is no `nn.Conv2d` or `nn.Linear`. Raises ProbeError.

    None where nothing about the module says that it is a masked layer.
    """
    if is_library(type(module)) and "forward" not in vars(module):
        return
    guesses, reason, understood = list(names_of(module)), None, False
    for names in guesses:
        try:
            with trying("a look at it"):
                _look_at_call(module)
                twin = stand_in(module, torch.float64).eval()
                candidate = _understood(module, Form(names=names), twin)
        except ProbeError as error:
            reason = reason or error
            continue
        understood = True
        yield candidate
    if reason is not None and not understood and any(has_mask(module, Layer(module, names)) for names in guesses):
        raise reason


def candidates_masking(model: nn.Module, path: str) -> Iterator[tuple[str, Candidate]]:
    """Modules around a plain layer, by path, that mask it: as `self.conv.weight.data *= self.mask` or by a product.

    Where several may, the innermost comes first.
    """
    layer = part_at(model, path)
    for around, module in _around(model, path, path):
        if is_library(type(module)) and "forward" not in vars(module):
            continue  # nn.Sequential masks nothing
        inner = path[len(around) + bool(around) :]
        if (found := fast_forward_of(module)) is not None and found.layer_of(module) is layer:
            raise ProbeError("accelerated already, with the module around it")
        try:
            with trying("it"):
                twin = stand_in(module, torch.float64).eval()
                candidate = _understood(module, Form(inner), twin)
        except ProbeError:
            continue
        for activation in ("none", *_ACTIVATIONS) if isinstance(layer, nn.Conv2d) else ("none",):
            yield around, candidate._replace(form=candidate.form._replace(activation=activation))


def candidates_around(model: nn.Module, path: str, start: str, candidate: Candidate) -> Iterator[tuple[str, Candidate]]:
    """Modules around ``start``, which has a fast forward, that may be an activation of the layer at ``path``."""
    if candidate.is_conv and candidate.form.crops is None:
        for around, module in _around(model, path, start):
            inner = path[len(around) + bool(around) :]
            for activation in _ACTIVATIONS:
                form = candidate.form._replace(inner=inner, activation=activation)
                yield around, candidate._replace(module=module, form=form, record=FastForward)


def candidates_conditioned(model: nn.Module, at: str, candidate: Candidate) -> Iterator[tuple[str, Candidate]]:
    """Modules around the layer at a path whose forward takes (x, z): an activation of the layer and a part that maps z.

    The part is an `nn.Linear`, or an `nn.Conv2d` of one pixel, with as many outputs as the layer.
    """
    for around, module in conditioned_around(model, at):
        inner = at[len(around) + bool(around) :]
        for path, part in named_parts(module):
            own = [p for p in parameters_of(module) if all(p is not q for q in parameters_of(part))]
            if len(own) != len(list(parameters_of(part_at(module, inner)))):
                continue
            for cond in _conds_of(path, part, len(candidate.live)):
                for activation in _ACTIVATIONS:
                    form = candidate.form._replace(inner=inner, activation=activation, cond=cond)
                    yield around, candidate._replace(module=module, form=form, record=FastForward)


def conditioned_around(model: nn.Module, at: str) -> Iterator[tuple[str, nn.Module]]:
    """The modules of somebody's own class around a path whose forward takes x and one thing more, from the inside."""
    while at:
        at = at.rpartition(".")[0]
        module = part_at(model, at)
        if not is_library(type(module)) and len(inspect.signature(own_method(module, "forward")).parameters) == 2:
            yield at, module


def _conds_of(path: str, part: nn.Module, outputs: int) -> list[Cond]:
    if type(part) is nn.Linear and part.out_features == outputs:
        return [Cond(path, "as it is", (part.in_features,))]
    if type(part) is nn.Conv2d and part.out_channels == outputs and part.kernel_size == (1, 1) and part.groups == 1:
        size = part.in_channels
        forms = (
            ("as it is", (size, 0, 0)),
            ("as it is", (size, 1, 1)),
            ("as an image", (size,)),
            ("expanded", (size,)),
        )
        return [Cond(path, *form) for form in forms]
    return []


def with_call(candidate: Candidate) -> Iterator[Candidate]:
    """The candidate, and that for a ``__call__`` of the module's own class."""
    yield candidate
    own: Any = method_of_class(candidate.module, "__call__")
    if own.__func__ is not nn.Module.__call__:
        yield candidate._replace(record=FastCall)


def _around(model: nn.Module, path: str, start: str) -> Iterator[tuple[str, nn.Module]]:
    """The modules around ``start`` that train nothing but the layer at ``path`` and can be called with one argument."""
    layer, around = part_at(model, path), start
    while around:
        around = around.rpartition(".")[0]
        module = part_at(model, around)
        if has_hooks_inside(module) or len(list(parameters_of(module))) > len(list(parameters_of(layer))):
            return
        if not takes_one(module):
            return
        yield around, module


def _understood(module: nn.Module, form: Form, twin: nn.Module) -> Candidate:
    """The taps or the adjacency of a module, by a `stand_in` of it; ``form`` says where the layer is."""
    layer = Layer(part_at(twin, form.inner), form.names)
    if not layer.is_conv:
        live = linear_adjacency(twin, layer)
        return Candidate(module, form, linear_spec(live), live)
    try:
        count, kind = _outputs_of(twin, layer)
        found = [conv_taps(twin, layer, at) for at in range(count)]
    except ProbeError:
        if twin is layer.module:
            raise
        found = [conv_taps(layer.module, layer)]  # an activation of one whose weight has zeros now
    if len(found) == 1:
        return Candidate(module, form, conv_spec(found[0]), found[0].live)
    taps, spec = _covered(found)
    if any(not other.live.equal(taps.live) for other in found):
        raise ProbeError("its outputs are no crops of one convolution")
    (cy, cx), (dy, dx) = taps.centre, taps.dilation
    shifts = tuple((dy * (cy - other.centre[0]), dx * (cx - other.centre[1])) for other in found)
    return Candidate(module, form._replace(crops=Crops(kind, shifts)), spec, taps.live)


def _outputs_of(twin: nn.Module, layer: Layer) -> tuple[int, type]:
    """How many outputs a module has, and whether they are a tuple or a list."""
    side = 4 * max(step * (k - 1) + 1 for step, k in zip(layer.dilation, layer.kernel_size, strict=True)) + 1
    with trying("its forward"), torch.no_grad():
        out = twin(like_of(layer.module).new_zeros(1, layer.inputs, side, side))
    return (len(out), type(out)) if type(out) in (tuple, list) else (1, tuple)


def _covered(found: list[ConvTaps]) -> tuple[ConvTaps, ConvSpec]:
    """The first of several crops that a mask covers. Raises ProbeError where there is none."""
    for taps in found[1:]:
        with suppress(ProbeError):
            return taps, conv_spec(taps)
    return found[0], conv_spec(found[0])


def _look(module: nn.Conv2d | nn.Linear) -> None:
    """Raises ProbeError where nothing need be tried."""
    if isinstance(module, (MaskedConv2d, MaskedLinear, WeightNormConv2d)):
        raise ProbeError("a layer of vlae_fast already")
    if type(module) in (nn.Conv2d, nn.Linear) and isinstance(vars(module).get("weight", module.weight), nn.Parameter):
        if "forward" not in vars(module) and fast_forward_of(module) is None:
            raise ProbeError("a plain layer: none of its weights is dead")
    _look_at_call(module)
    if isinstance(module, nn.Conv2d):
        plain = {"stride": (1, 1), "groups": 1, "padding_mode": "zeros"}
        for name, value in plain.items():
            if (got := getattr(module, name)) != value:
                raise ProbeError(f"{name} must be {value}, it has {got}")


def _look_at_call(module: nn.Module) -> None:
    """Raises ProbeError where a module cannot be called with x alone, or has no values."""
    if fast_forward_of(module) is not None:
        raise ProbeError("accelerated already")
    own = list(parameters_of(module))
    if any(p.is_meta or nn.parameter.is_lazy(p) for p in own):
        raise ProbeError("its weights have no values yet")
    if unknown := {p.dtype for p in own if p.is_complex() or p.is_floating_point()} - TOLERANCE.keys():
        raise ProbeError(f"its parameters are {unknown.pop()}")
    if not takes_one(module):
        raise ProbeError("its forward takes more than one argument")


def takes_one(module: nn.Module) -> bool:
    """True where a module's forward can be called with one argument."""
    parameters = list(inspect.signature(own_method(module, "forward")).parameters.values())
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    optional = all(p.default is not inspect.Parameter.empty or p.kind in variable for p in parameters[1:])
    return bool(parameters) and parameters[0].kind is not inspect.Parameter.KEYWORD_ONLY and optional


def _look_at_weight(layer: nn.Module) -> None:
    """Raises ProbeError where a layer has no weight, or an empty one; takes a copy of the layer.

    Reading a weight that is computed may write to buffers.
    """
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor):
        raise ProbeError("it has no weight")
    if weight.numel() == 0:
        raise ProbeError(f"its weight is empty: {tuple(weight.shape)}")
