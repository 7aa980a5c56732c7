"""Fast forwards for masked layers of anyone's model, in place; nothing is replaced that is not the same function."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .. import backends
from ..layers.conv import MaskedConv2d
from ..layers.linear import MaskedLinear
from ..layers.weight_norm import WeightNormConv2d
from .compare import TOLERANCE, compare
from .fast_forward import FastForward, Spec, conv_spec, fast_forward_of, has_hooks_inside, linear_spec
from .flows.accelerate import fast_inverse, fast_inverse_of
from .flows.inverses import FastInverse
from .probe import ProbeError, conv_taps, like_of, linear_adjacency, stand_in, trying

_ACTIVATIONS = ("gate", "relu", "elu")


class Row(NamedTuple):
    """A module, what it is, and what it runs on now (None: its own forward, and ``why``)."""

    path: str
    was: str
    now: str | None
    why: str = ""


class Report:
    """What `accelerate` did: rows ``(path, was, now, why)``, a table when printed; of the swaps, the way back."""

    def __init__(self, rows: Sequence[Row], swaps: Sequence[FastForward | FastInverse]) -> None:
        self.rows, self._swaps = list(rows), list(swaps)

    @property
    def replaced(self) -> list[str]:
        """Paths of the modules that have a fast forward or inverse by this call."""
        return [row.path for row in self.rows if row.now is not None]

    @property
    def left_alone(self) -> dict[str, str]:
        """Path -> why, of the others."""
        return {row.path: row.why for row in self.rows if row.now is None}

    def undo(self) -> None:
        """Gives every module of the model its own forward and inverse back, also what was there before; once."""
        for swap in self._swaps:
            swap.remove()
        self._swaps = []

    def __str__(self) -> str:
        cells = [("module", "what it was", "what it is now")]
        for row in self.rows:
            now = f"left alone: {row.why}" if row.now is None else "; ".join(filter(None, (row.now, row.why)))
            cells.append((row.path or "(the model)", row.was, now))
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells]
        return "\n".join([*lines, f"{len(self.replaced)} of {len(self.rows)} replaced"])


@torch.inference_mode(False)
def accelerate(model: nn.Module, backend: str = "auto") -> Report:
    """Gives the masked layers and the autoregressive flows of any model fast forwards and inverses, in place.

    Layers are recognised by what they do, not by class: subclasses of `nn.Conv2d` and `nn.Linear`, weight-normalised
    and pruned ones too, are probed as copies with random weights. A fast forward is taken only if its outputs and
    gradients are those of the layer's own. Parameters stay the same objects and are not written to; hooks fire.
    Flows of zuko, nflows and normflows get the inverse of `vlae_fast.accelerate_flows`.

    Masks are taken as they are now. A layer whose mask is seen to have changed, by a ``load_state_dict``, an assignment
    or a write to the tensor, has its own forward back, with a warning; so has one whose plain attributes change, and a
    wrapper that gets other parts. Not seen are writes to ``mask.data``, masks in lists, and, once the model is
    compiled, changes at all: call `Report.undo` before them.

    Args:
        model: any module.
        backend: ``auto`` or a name of `vlae_fast.backends.report`.

    Returns:
        a report, which prints as a table and has ``undo()``; that of a copy of an accelerated model undoes the copy.

    What changes: outputs of convolutions are channels_last; second derivatives raise; weights that a mask kills have
    gradient 0, where code that multiplies ``weight.data`` by the mask gives them one that has no effect.

    Raises:
        ValueError: no such backend. RuntimeError: the named backend cannot run a layer: says why, and changes nothing.

    >>> layer = nn.Sequential(nn.Linear(2, 2))
    >>> print(accelerate(layer))
    module  what it was   what it is now
    0       Linear(2, 2)  left alone: a plain layer: none of its weights is dead
    0 of 1 replaced
    """
    backends.check_name("accelerate", backend)
    rows: list[Row] = []
    found: list[FastForward | FastInverse] = []
    for path, module in model.named_modules():
        try:
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                for row, forward in _faster(model, path, module, backend):
                    rows.append(row)
                    found.append(forward)
            elif (inverse := _inverse(module, backend)) is not None:
                chosen = backends.pick("made_inverse", next(module.parameters()), backend).name
                rows.append(Row(path, type(module).__name__, f"made_inverse, {chosen}", "its inverse"))
                found.append(inverse)
        except ProbeError as reason:
            rows.append(Row(path, _describe(module), None, str(reason)))
    before = [swap for module in model.modules() for swap in (fast_forward_of(module), fast_inverse_of(module)) if swap]
    for swap in found:
        swap.install()
    return Report(rows, [*before, *found])


def _describe(module: nn.Module) -> str:
    if isinstance(module, nn.Linear):
        return f"{type(module).__name__}({module.in_features}, {module.out_features})"
    if isinstance(module, nn.Conv2d):
        kernel = "x".join(map(str, module.kernel_size))
        return f"{type(module).__name__}({module.in_channels}, {module.out_channels}, {kernel})"
    return type(module).__name__


def _inverse(module: nn.Module, backend: str) -> FastInverse | None:
    """A fast inverse for a flow, None where the module is none; raises ProbeError."""
    found = fast_inverse(module, backend)
    if isinstance(found, str):
        raise ProbeError(found)
    if found is not None and found.is_installed:
        raise ProbeError("accelerated already")
    return found


def _faster(
    model: nn.Module, path: str, module: nn.Conv2d | nn.Linear, backend: str
) -> Iterator[tuple[Row, FastForward]]:
    """The fast forwards of a layer, and of a module that is an activation of it; raises ProbeError."""
    spec, live = _understand(module)
    chosen = backends.pick(spec.op, like_of(module), backend).name
    with trying("a fast forward"):
        remark = _compare_all(module, "", spec, backend, live)
    yield Row(path, _describe(module), f"{spec}, {chosen}", remark), FastForward(module, spec, backend)
    for around, activation in _around(model, path, spec, live, backend):
        outer = model.get_submodule(around)
        row = Row(around, _describe(outer), f"{spec} and {activation} in one pass, {chosen}")
        yield row, FastForward(outer, spec, backend, module, activation)


def _understand(module: nn.Conv2d | nn.Linear) -> tuple[Spec, Tensor]:
    """What computes the same, to be compared, and the live weights; raises ProbeError."""
    with trying("a look at it"):
        _look(module)
        layer = stand_in(module, torch.float64).eval()
        _look_at_weight(layer)
        if isinstance(layer, nn.Conv2d):
            taps = conv_taps(layer)
            return conv_spec(taps), taps.live
        live = linear_adjacency(layer)
        return linear_spec(live), live


def _compare_all(
    module: nn.Module, inner: str, spec: Spec, backend: str, live: Tensor, activation: str = "none"
) -> str:
    """`compare` by the reference, to the last digits, and by the backend in the layer's own dtype."""
    remark = compare(module, inner, spec, "reference", live, torch.float64, activation)
    dtype = like_of(module.get_submodule(inner)).dtype
    if dtype != torch.float64:
        compare(module, inner, spec, backend, live, dtype, activation)
    return remark


def _around(model: nn.Module, path: str, spec: Spec, live: Tensor, backend: str) -> Iterator[tuple[str, str]]:
    """The module that is an activation of a convolution and nothing else, if there is one, by path and activation."""
    layer, around = model.get_submodule(path), path
    while around and isinstance(layer, nn.Conv2d):
        around = around.rpartition(".")[0]
        module = model.get_submodule(around)
        if has_hooks_inside(module) or len(list(module.parameters())) > len(list(layer.parameters())):
            return
        if len(inspect.signature(module.forward).parameters) != 1:
            return
        inner = path[len(around) + bool(around) :]
        for activation in _ACTIVATIONS:
            try:
                with trying("it"):
                    _compare_all(module, inner, spec, backend, live, activation)
            except ProbeError:
                continue
            yield around, activation
            return


def _look(module: nn.Conv2d | nn.Linear) -> None:
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
    if len(inspect.signature(module.forward).parameters) != 1:
        raise ProbeError("its forward takes more than one argument")
    if isinstance(module, nn.Conv2d):
        plain = {"stride": (1, 1), "groups": 1, "padding_mode": "zeros"}
        for name, value in plain.items():
            if (got := getattr(module, name)) != value:
                raise ProbeError(f"{name} must be {value}, it has {got}")


def _look_at_weight(layer: nn.Module) -> None:
    """Raises ProbeError where there is none, or nothing in it; to be asked of a copy (see `kept_tensors`)."""
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor):
        raise ProbeError("it has no weight")
    if weight.numel() == 0:
        raise ProbeError(f"its weight is empty: {tuple(weight.shape)}")
