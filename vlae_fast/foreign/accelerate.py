"""Fast forwards for masked layers of anyone's model, in place; nothing is replaced that is not the same function."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from .. import backends
from ..arguments import check_module, whole
from .candidates import (
    candidate_of,
    candidates_around,
    candidates_conditioned,
    candidates_masking,
    candidates_of,
    conditioned_around,
    with_call,
)
from .code import names_in
from .compare import Candidate, compare
from .example import run_on
from .fast_forward import FastForward, fast_forward_of
from .flows.accelerate import fast_inverse_of, inverses_in
from .flows.inverses import FastInverse
from .measured import Measured
from .probe import ProbeError, like_of, random_state_kept, trying
from .report import Report, Row
from .swap import own_method
from .walk import kept, named_parts, parameters_of, part_at, parts_of

Fast = tuple[nn.Module, FastForward]
Found = tuple[str, nn.Module, FastForward | FastInverse]


@torch.inference_mode(False)
def accelerate(
    model: nn.Module, backend: str = "auto", *, example: Any = None, measure: bool = True, verify_every: int = 0
) -> Report:
    """Gives the masked layers and the autoregressive flows of any model fast forwards and inverses, in place.

    Layers are recognised by what they do, not by class: subclasses of `nn.Conv2d` and `nn.Linear`, weight-normalised
    and pruned ones too, and modules with a weight of their own are probed as copies with random weights. A fast forward
    is taken only if its outputs and gradients are those of the layer's own, under autocast too. A module that masks a
    plain layer within it counts as one. Parameters stay the same objects; hooks fire. Flows get the inverse of
    `vlae_fast.accelerate_flows`.

    What is not faster does not run: the first call of a layer with an input of its size, to a power of two, times both
    forwards, and their backward where there is one to come.

    Masks are taken as they are now. A layer has its own forward back, with a warning, once something that its code
    reads is seen to have changed: a tensor, also by writes to ``mask.data`` on the CPU; an attribute of it, of its
    class or of a part of it; what lies in a list, a dict or an object there; a function or a global name. Where what it
    reads cannot be watched it is left alone. Not seen are writes to ``mask.data`` on a GPU and, once the model is
    compiled, changes at all: call `Report.undo` before them.

    Args:
        model: any module.
        backend: ``auto`` or a name of `vlae_fast.backends.report`.
        example: the model's input, a tuple of several or a dict by name: it is called with that at once, under the
            modes that it is in, and the slower layers are left alone.
        measure: False: nothing is timed, and fast forwards and inverses run.
        verify_every: n > 0: in every n-th call of a layer its own forward runs too, and must give the same.

    Returns:
        a report, which prints as a table and has ``undo()``; that of a copy of an accelerated model undoes the copy.
        Of layers that have been called it has the time of their own code by that of ours, in ``measured``.

    What changes: second derivatives are computed by the reference; weights that a mask kills have gradient 0, where
    code that multiplies ``weight.data`` by the mask gives them one that has no effect. As that code does, zeros are
    written to them: now, when a state_dict is loaded or made, and when the model is copied. The class of a module
    becomes a subclass of the same name. Under `torch.func` and in forward mode a layer takes its own forward, or the
    reference of the op where its own writes to ``weight.data``.

    Raises:
        ValueError: no such backend; verify_every is negative. RuntimeError: the named backend cannot run a layer: says
            why, and changes nothing.

    >>> layer = nn.Sequential(nn.Linear(2, 2))
    >>> print(accelerate(layer))
    module  what it was   what it is now
    0       Linear(2, 2)  left alone: a plain layer: none of its weights is dead
    0 of 1 replaced
    """
    check_module("accelerate", "model", model)
    backends.check_name("accelerate", backend)
    if whole("accelerate", "verify_every", verify_every) < 0:
        raise ValueError(f"accelerate: verify_every must be 0 or more, got {verify_every}")
    with random_state_kept(*{p.device for p in parameters_of(model)}):
        rows, found = _search(model, backend)
    before = [(m, swap) for m in parts_of(model) if (swap := fast_forward_of(m) or fast_inverse_of(m)) is not None]
    for _, module, swap in found:
        swap.verify_every, swap.measured = verify_every, Measured(off=not measure)
        swap.install(module)
    report = Report(rows, [*before, *((module, swap) for _, module, swap in found)], {at: s for at, _, s in found})
    if example is not None:
        run_on(model, example, report)
    return report


def _search(model: nn.Module, backend: str) -> tuple[list[Row], list[Found]]:
    rows: list[Row] = []
    found: list[Found] = []
    flows = {path: fast for path, _, fast in inverses_in(model, backend)}
    for path, module in named_parts(model):
        try:
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                for row, forward in _faster(model, path, module, backend):
                    rows.append(row)
                    found += [] if forward is None else [(row.path, *forward)]
            elif (inverse := _inverse(module, flows.get(path))) is not None:
                chosen = backends.pick("made_inverse", next(parameters_of(module)), backend).name
                rows.append(Row(path, type(module).__name__, f"made_inverse, {chosen}", "its inverse"))
                found.append((path, module, inverse))
            else:
                for row, forward in _own_layer(model, path, module, backend):
                    rows.append(row)
                    found += [] if forward is None else [(row.path, *forward)]
        except ProbeError as reason:
            rows.append(Row(path, _describe(module), None, str(reason)))
    return rows, found


def _describe(module: nn.Module) -> str:
    if isinstance(module, nn.Linear):
        return f"{type(module).__name__}({module.in_features}, {module.out_features})"
    if isinstance(module, nn.Conv2d):
        kernel = "x".join(map(str, module.kernel_size))
        return f"{type(module).__name__}({module.in_channels}, {module.out_channels}, {kernel})"
    return type(module).__name__


def _inverse(module: nn.Module, found: FastInverse | str | None) -> FastInverse | None:
    """A fast inverse for a flow, None where the module is none; raises ProbeError."""
    if isinstance(found, str):
        raise ProbeError(found)
    if found is not None and fast_inverse_of(module) is found:
        raise ProbeError("accelerated already")
    return found


def _faster(
    model: nn.Module, path: str, layer: nn.Conv2d | nn.Linear, backend: str
) -> Iterator[tuple[Row, Fast | None]]:
    """The fast forwards of a layer, and of the modules that mask it or are an activation of it; raises ProbeError."""
    try:
        candidate, at = candidate_of(layer), path
        candidate, fast, remark = _compared([candidate], backend)
    except ProbeError as reason:
        at, candidate, fast, remark = _masked_around(model, path, backend, str(reason))
    yield from _with_activation(model, path, at, candidate, fast, remark)


def _own_layer(model: nn.Module, path: str, module: nn.Module, backend: str) -> Iterator[tuple[Row, Fast | None]]:
    """The fast forward of a module that is a layer of its own, if it is one; raises ProbeError."""
    if candidates := list(candidates_of(module)):
        candidate, fast, remark = _compared(candidates, backend)
        yield from _with_activation(model, path, path, candidate, fast, remark)


def _compared(candidates: list[Candidate], backend: str) -> tuple[Candidate, FastForward, str]:
    """The first candidate that computes what its module does; raises ProbeError with the reason against the first."""
    reason = None
    for candidate in itertools.chain(*map(with_call, candidates)):
        backends.pick(candidate.spec.op, like_of(candidate.layer().module), backend)
        try:
            with trying("a fast forward"):
                return (candidate, *compare(candidate, backend))
        except ProbeError as error:
            reason = reason or error
    assert reason is not None
    raise reason


def _with_activation(
    model: nn.Module, path: str, at: str, candidate: Candidate, fast: FastForward, remark: str
) -> Iterator[tuple[Row, Fast | None]]:
    """The row of a layer, and that of a module around it which is an activation of it; raises ProbeError."""
    if fast.live is not None:
        _check_own_weight(model, candidate)
    chosen = backends.pick(candidate.spec.op, like_of(candidate.module), fast.backend).name
    yield Row(at, _describe(part_at(model, at)), _what(candidate, chosen), remark), (candidate.module, fast)
    if candidate.form.activation != "none":
        return
    for around, outer in candidates_around(model, path, at, candidate):
        try:
            with trying("it"):
                found, _ = compare(outer, fast.backend)
        except ProbeError:
            continue
        yield Row(around, _describe(outer.module), _what(outer, chosen)), (outer.module, found)
        return
    if candidate.is_conv and candidate.form.crops is None:
        yield from _conditioned(model, at, candidate, fast.backend, chosen)


def _check_own_weight(model: nn.Module, candidate: Candidate) -> None:
    """Raises ProbeError where another module has the weight as well: it would miss the zeros of each forward."""
    layer = part_at(candidate.module, candidate.form.inner)
    shared = {id(p) for p in layer._parameters.values() if p is not None and p.dim() > 1}
    for path, part in named_parts(model):
        if part is not layer and shared & {id(p) for p in kept(part, "_parameters").values()}:
            raise ProbeError(f"its forward writes to a weight that {path!r} has as well")


def _conditioned(
    model: nn.Module, at: str, candidate: Candidate, backend: str, chosen: str
) -> Iterator[tuple[Row, Fast | None]]:
    """The row of a module around a layer that is its gate, or another activation, under a condition."""
    for around, outer in candidates_conditioned(model, at, candidate):
        try:
            with trying("it"):
                found, _ = compare(outer, backend)
        except ProbeError:
            continue
        yield Row(around, _describe(outer.module), _what(outer, chosen)), (outer.module, found)
        return
    for around, module in conditioned_around(model, at):
        if fast_forward_of(module) is None and {"tanh", "sigmoid"} <= names_in([own_method(module, "forward")]):
            why = "its gate is not fused: it must be tanh(a) * sigmoid(b) of the masked convolution plus a part of z"
            yield Row(around, _describe(module), None, why), None
        return


def _what(candidate: Candidate, chosen: str) -> str:
    form = candidate.form
    cond = "" if form.cond is None else ", its condition"
    activation = "" if form.activation == "none" else f"{cond} and {form.activation} in one pass"
    crops = "" if form.crops is None else f", {len(form.crops.shifts)} crops of it"
    return f"{candidate.spec}{activation}{crops}, {chosen}"


def _masked_around(model: nn.Module, path: str, backend: str, reason: str) -> tuple[str, Candidate, FastForward, str]:
    """A module around a layer that is the layer masked; raises ProbeError with the reason against the layer itself."""
    if type(part_at(model, path)) in (nn.Conv2d, nn.Linear):
        for around, candidate in candidates_masking(model, path):
            try:
                return (around, *_compared([candidate], backend))
            except ProbeError:
                continue
    raise ProbeError(reason)
