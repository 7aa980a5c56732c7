"""Fast forwards for masked layers of anyone's model, in place; nothing is replaced that is not the same function."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import backends
from .conv import MaskedConv2d
from .fast_forward import FastForward, Spec, conv_spec, has_hooks_inside, linear_spec
from .linear import MaskedLinear
from .probe import ProbeError, call, conv_taps, linear_adjacency, random_like, stand_in
from .weight_norm import WeightNormConv2d

# Of the largest number: kernels may round to 10 bits on a GPU, and sum in another order.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-2, torch.bfloat16: 0.1, torch.float16: 0.1}

_ACTIVATIONS = ("gate", "relu", "elu")


class Row(NamedTuple):
    """A module, what it is, and what it runs on now (None: its own forward, and ``why``)."""

    path: str
    was: str
    now: str | None
    why: str = ""


class Report:
    """What `accelerate` did: rows ``(path, was, now, why)``, a table when printed; of the swaps, the way back."""

    def __init__(self, rows: Sequence[Row], swaps: Sequence[FastForward]) -> None:
        self.rows, self._swaps = list(rows), list(swaps)

    @property
    def replaced(self) -> list[str]:
        """Paths of the modules that have a fast forward."""
        return [row.path for row in self.rows if row.now is not None]

    @property
    def left_alone(self) -> dict[str, str]:
        """Path -> why, of the others."""
        return {row.path: row.why for row in self.rows if row.now is None}

    def undo(self) -> None:
        """Gives every module its own forward back; once."""
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


def accelerate(model: nn.Module, backend: str = "auto") -> Report:
    """Gives the masked convolutions and masked linear layers of any model fast forwards, in place.

    Layers are recognised by what they do, not by class: subclasses of `nn.Conv2d` and `nn.Linear`, weight-normalised
    and pruned ones too, are probed as copies with random weights. A fast forward is taken only if its outputs and
    gradients are those of the layer's own. Parameters stay the same objects and are not written to; hooks fire.
    Masks are taken as they are now: a ``load_state_dict`` that changes one gives the layer its own forward back, with a
    warning; code that writes to a mask in place must call `Report.undo` first.

    Args:
        model: any module.
        backend: ``auto`` or a name of `vlae_fast.backends.report`.

    Returns:
        a report, which prints as a table and has ``undo()``.

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
    if backend not in backends.NAMES:
        raise ValueError(f"accelerate: backend must be one of {', '.join(backends.NAMES)}, got {backend!r}")
    rows, swaps = [], []
    for path, module in model.named_modules():
        if not isinstance(module, (nn.Conv2d, nn.Linear)):
            continue
        try:
            spec, live, remark = _understand(module, backend)
        except ProbeError as reason:
            rows.append(Row(path, _describe(module), None, str(reason)))
        else:
            swaps.append(FastForward(module, spec, backend))
            chosen = backends.pick(spec.op, module.weight, backend).name
            rows.append(Row(path, _describe(module), f"{spec}, {chosen}", remark))
            for around, activation in _around(model, path, spec, live, backend):
                swaps.append(FastForward(model.get_submodule(around), spec, backend, module, activation))
                what = type(model.get_submodule(around)).__name__
                rows.append(Row(around, what, f"{spec} and {activation} in one pass, {chosen}"))
    for swap in swaps:
        swap.install()
    return Report(rows, swaps)


def _describe(module: nn.Conv2d | nn.Linear) -> str:
    if isinstance(module, nn.Linear):
        return f"{type(module).__name__}({module.in_features}, {module.out_features})"
    kernel = "x".join(map(str, module.kernel_size))
    return f"{type(module).__name__}({module.in_channels}, {module.out_channels}, {kernel})"


def _understand(module: nn.Conv2d | nn.Linear, backend: str) -> tuple[Spec, Tensor, str]:
    """What computes the same, the live weights, and a remark; raises ProbeError."""
    _look(module)
    layer = stand_in(module, torch.float64).eval()
    spec: Spec
    if isinstance(layer, nn.Conv2d):
        taps = conv_taps(layer)
        live, spec = taps.live, conv_spec(taps)
    else:
        live = linear_adjacency(layer)
        spec = linear_spec(live)
    backends.pick(spec.op, module.weight, backend)
    remark = _compare(module, "", spec, "reference", live, torch.float64)
    if module.weight.dtype != torch.float64:
        _compare(module, "", spec, backend, live, module.weight.dtype)
    return spec, live, remark


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
                _compare(module, inner, spec, "reference", live, torch.float64, activation)
                if layer.weight.dtype != torch.float64:
                    _compare(module, inner, spec, backend, live, layer.weight.dtype, activation)
            except ProbeError:
                continue
            yield around, activation
            return


def _look(module: nn.Conv2d | nn.Linear) -> None:
    """Raises ProbeError where nothing need be tried."""
    if isinstance(module, (MaskedConv2d, MaskedLinear, WeightNormConv2d)):
        raise ProbeError("a layer of vlae_fast already")
    if isinstance(getattr(vars(module).get("forward"), "__self__", None), FastForward):
        raise ProbeError("accelerated already")
    if any(p.is_meta or nn.parameter.is_lazy(p) for p in module.parameters()):
        raise ProbeError("its weights have no values yet")
    if type(module) in (nn.Conv2d, nn.Linear) and isinstance(vars(module).get("weight", module.weight), nn.Parameter):
        if "forward" not in vars(module):
            raise ProbeError("a plain layer: none of its weights is dead")
    if len(inspect.signature(module.forward).parameters) != 1:
        raise ProbeError("its forward takes more than one argument")
    if isinstance(module, nn.Conv2d):
        plain = {"stride": (1, 1), "dilation": (1, 1), "groups": 1, "padding_mode": "zeros"}
        for name, value in plain.items():
            if (got := getattr(module, name)) != value:
                raise ProbeError(f"{name} must be {value}, it has {got}")


def _compare(
    module: nn.Module,
    inner: str,
    spec: Spec,
    backend: str,
    live: Tensor,
    dtype: torch.dtype,
    activation: str = "none",
) -> str:
    """Raises ProbeError unless outputs and gradients are the module's own; returns a remark on them.

    inner: path of the layer within the module, empty where it is the module.
    """
    theirs, ours = stand_in(module, dtype), stand_in(module, dtype)
    FastForward(ours, spec, backend, ours.get_submodule(inner), activation).install()
    weight = f"{inner}.weight".removeprefix(".")
    remark = ""
    for training in (False, True):
        theirs.train(training)
        ours.train(training)
        for shape in _shapes(theirs.get_submodule(inner)):
            before = {name: t.detach().clone() for name, t in theirs.state_dict().items()}
            # an activation that is cut off somewhere differs only there
            for reach in (1.0, 1e6) if activation != "none" and dtype == torch.float64 else (1.0,):
                expected, got = _results(theirs, shape, reach), _results(ours, shape, reach)
                _check_state(theirs, before, weight, live)
                for name, want in expected.items():
                    have = got[name]
                    if name == f"the gradient of {weight}":
                        remark = "" if torch.where(live, 0, want).eq(0).all() else "dead weights now have gradient 0"
                        want = torch.where(live, want, 0)
                    error = (have - want).abs().max().item() if have.shape == want.shape else float("inf")
                    if not error <= _TOLERANCE.get(dtype, 0.1) * (1e-3 + want.abs().max().item()):
                        raise ProbeError(f"{name} differs from that of {spec} by {error:.3g}")
    return remark


def _shapes(layer: Any) -> list[tuple[int, ...]]:
    """Of inputs to compare on: images that differ in both sides, and smaller than a kernel as well."""
    if isinstance(layer, nn.Linear):
        return [(3, layer.in_features)]
    side = max(layer.kernel_size)
    return [(2, layer.in_channels, side + 2, side + 3), (1, layer.in_channels, 3, 2)]


def _results(layer: nn.Module, shape: tuple[int, ...], reach: float) -> dict[str, Tensor]:
    generator, like = torch.Generator().manual_seed(2), next(layer.parameters())
    x = (reach * random_like(torch.empty(shape), generator).to(like)).requires_grad_()
    with torch.enable_grad():
        out = call(layer, x)
        wanted = {"x": x, **dict(layer.named_parameters())}
        grads = torch.autograd.grad(
            out, list(wanted.values()), random_like(out, generator), allow_unused=True, materialize_grads=True
        )
    return {"the output": out.detach(), **{f"the gradient of {n}": g for n, g in zip(wanted, grads, strict=True)}}


def _check_state(module: nn.Module, before: dict[str, Tensor], weight: str, live: Tensor) -> None:
    """Raises ProbeError where a forward wrote to anything but the dead weights."""
    for name, now in module.state_dict().items():
        was = before[name]
        if name == weight:
            was, now = torch.where(live, was, 0), torch.where(live, now, 0)
        if not now.equal(was):
            raise ProbeError(f"its forward writes to {name}")
