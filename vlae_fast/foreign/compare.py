"""Comparison of a fast forward with a module's own, on random copies: outputs, gradients, state, autocast."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .fast_forward import FORMATS, FastCall, FastForward, Form, Traits
from .layer import Layer
from .probe import TOLERANCE, ProbeError, call, difference, like_of, outputs, random, stand_in
from .spec import LinearSpec, Spec
from .walk import named_parameters_of, parameters_of, part_at, parts_of


class Candidate(NamedTuple):
    """A candidate for the forward of a module by an op: what it computes, and with which layer.

    live: the layer's weights that count, as `Names.weight_of`. record: whether forward or ``__call__`` is replaced.
    """

    module: nn.Module
    form: Form
    spec: Spec
    live: Tensor
    record: type[FastForward] = FastForward

    @property
    def weight(self) -> str:
        return f"{self.form.inner}.{self.form.names.weight}".removeprefix(".")

    @property
    def stored_live(self) -> Tensor:
        """The weights that count, as the module keeps its weight."""
        return self.form.names.stored(self.live)

    @property
    def is_conv(self) -> bool:
        """By what was seen of a copy: to read the weight of the module itself may be to change something."""
        return self.live.dim() == 4

    def layer(self, module: nn.Module | None = None) -> Layer:
        """The layer in the module, or in a copy of that."""
        return Layer(part_at(module or self.module, self.form.inner), self.form.names)

    def forward(self, backend: str, traits: Traits | None = None, writes_zeros: bool = False) -> FastForward:
        """The fast forward, to be installed."""
        fast = self.record(self.spec, backend, self.form)
        fast.traits = traits or fast.traits
        fast.live = self.stored_live if writes_zeros else None
        return fast


def compare(candidate: Candidate, backend: str) -> tuple[FastForward, str]:
    """The fast forward and a remark on its gradients. Raises ProbeError unless it does what the module's own does.

    The op is compared by the reference, to the last digits, and by the backend in the layer's own dtype.
    """
    dtype = like_of(candidate.layer().module).dtype
    if candidate.record is FastCall:
        _check_no_hooks(candidate)
    remark, writes_zeros = _compare_numbers(candidate, "reference", torch.float64)
    if dtype != torch.float64:
        _compare_numbers(candidate, backend, dtype)
    traits = _traits_of(candidate, dtype)
    fast = candidate.forward(backend, traits, writes_zeros)
    _compare_traits(candidate, backend, traits, dtype)
    if dtype != torch.float64:
        try:
            amp = _compare_autocast(candidate, traits, dtype)
        except ProbeError:
            if isinstance(candidate.layer().module, nn.Conv2d | nn.Linear):
                raise
            amp = frozenset()  # code that adds its bias to a product rounds elsewhere: under autocast it runs itself
        fast.traits = traits._replace(amp=amp)
    return fast, remark


def _twins(candidate: Candidate, fast: FastForward, dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
    theirs, ours = (stand_in(candidate.module, dtype).eval() for _ in range(2))
    try:
        fast.install(ours)
    except TypeError as error:
        raise ProbeError(f"its class cannot be extended: {error}") from error
    return theirs, ours


def _compare_numbers(candidate: Candidate, backend: str, dtype: torch.dtype) -> tuple[str, bool]:
    """A remark on the gradients, and whether a forward leaves zeros in the dead weights."""
    theirs, ours = _twins(candidate, candidate.forward(backend), dtype)
    live, weight = candidate.stored_live, candidate.weight
    remark, writes_zeros = "", False
    shapes = _shapes(candidate)
    _results(candidate, theirs, shapes[0], 1.0)  # the first forward may fill caches
    attributes = _attributes_of(theirs)
    # what is cut off somewhere, to the numbers of half precision or as an activation, differs only there
    reaches = (1.0, 1e6) if dtype == torch.float64 else (1.0,)
    for training, shape, reach in product((False, True), shapes, reaches):
        for twin in (theirs, ours):
            _stretch(twin.train(training), reach)
        before = {name: t.detach().clone() for name, t in theirs.state_dict().items()}
        expected = _results(candidate, theirs, shape, reach)
        _check_state(theirs, before, weight, live)
        _check_attributes(theirs, attributes)
        written = theirs.state_dict().get(weight)
        writes_zeros = written is not None and bool(torch.where(live, 0, written).eq(0).all())
        got = _results(candidate, ours, shape, reach)
        for name, want in expected.items():
            have = got[name]
            if name == f"the gradient of {weight}":
                remark = "" if torch.where(live, 0, want).eq(0).all() else "dead weights now have gradient 0"
                want = torch.where(live, want, 0)
            error = (have - want).abs().max().item() if have.shape == want.shape else float("inf")
            if not error <= TOLERANCE[dtype] * (1e-3 + want.abs().max().item()):
                raise ProbeError(f"{name} differs from that of {candidate.spec} by {error:.3g}")
        for twin in (theirs, ours):
            _stretch(twin, 1 / reach)
    if dtype == torch.float64:
        _compare_modes(candidate, theirs, ours)
    return remark, writes_zeros


@torch.no_grad()
def _stretch(module: nn.Module, factor: float) -> None:
    for parameter in parameters_of(module) if factor != 1 else ():
        if parameter.requires_grad:
            parameter.mul_(factor)


def _compare_modes(candidate: Candidate, theirs: nn.Module, ours: nn.Module) -> None:
    """Raises ProbeError where the module asks for a mode, or for what is to be trained, and computes something else."""
    given = _inputs(candidate, theirs, _shapes(candidate)[-1], torch.Generator().manual_seed(5))
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        for parameter in (*parameters_of(theirs), *parameters_of(ours)):
            parameter.requires_grad_(mode is torch.no_grad and parameter.is_floating_point())
        with mode():
            pairs = zip(outputs(theirs, *given), outputs(ours, *given), strict=True)
        for want, have in pairs:
            if not difference(have, want) <= TOLERANCE[torch.float64]:
                raise ProbeError(f"its output under {mode.__name__} differs from that of {candidate.spec}")


def _check_no_hooks(candidate: Candidate) -> None:
    """Raises ProbeError where the ``__call__`` of the module's class runs the hooks that a fast one would not."""
    theirs = stand_in(candidate.module, torch.float64).eval()
    ran: list[int] = []
    theirs.register_forward_hook(lambda *_: ran.append(1))
    outputs(theirs, *_inputs(candidate, theirs, _shapes(candidate)[0], torch.Generator().manual_seed(2)))
    if ran:
        raise ProbeError("its __call__ runs hooks and computes with what its forward returns")


def _shapes(candidate: Candidate) -> list[tuple[int, ...]]:
    """Shapes of inputs to compare on: images that differ in both sides, some smaller than a kernel, a larger batch."""
    inputs = candidate.live.shape[1]
    if not candidate.is_conv:
        return [(3, inputs), (33, inputs)]
    steps = candidate.layer().dilation
    side = 1 + max(step * (k - 1) for step, k in zip(steps, candidate.live.shape[2:], strict=True))
    return [(2, inputs, side + 2, side + 3), (1, inputs, 3, 2), (17, inputs, 2, 1)]


def _inputs(
    candidate: Candidate, module: nn.Module, shape: tuple[int, ...], generator: torch.Generator, reach: float = 1.0
) -> list[Tensor]:
    """Random x, and the condition where the candidate has one."""
    like = like_of(candidate.layer(module).module)
    x = (reach * random(shape, generator)).to(like)
    if candidate.form.cond is None:
        return [x]
    return [x, random(candidate.form.cond.shape_for(shape), generator).to(like)]


def _results(candidate: Candidate, module: nn.Module, shape: tuple[int, ...], reach: float) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    given = [t.requires_grad_() for t in _inputs(candidate, module, shape, generator, reach)]
    with torch.enable_grad():
        outs = outputs(module, *given)
        wanted = dict(zip(("x", "the condition"), given, strict=False))
        wanted |= {name: p for name, p in named_parameters_of(module) if p.requires_grad}
        grads = torch.autograd.grad(
            outs,
            list(wanted.values()),
            [random(out.shape, generator).to(out) for out in outs],
            allow_unused=True,
            materialize_grads=True,
        )
    names = ["the output"] if len(outs) == 1 else [f"output {i}" for i in range(len(outs))]
    made = {name: out.detach() for name, out in zip(names, outs, strict=True)}
    return made | {f"the gradient of {n}": g for n, g in zip(wanted, grads, strict=True)}


def _check_state(module: nn.Module, before: dict[str, Tensor], weight: str, live: Tensor) -> None:
    """Raises ProbeError where a forward wrote to anything but the dead weights."""
    for name, now in module.state_dict().items():
        was = before[name]
        if name == weight:
            was, now = torch.where(live, was, 0), torch.where(live, now, 0)
        if not now.equal(was):
            raise ProbeError(f"its forward writes to {name}")


def _attributes_of(module: nn.Module) -> dict[tuple[nn.Module, str], Any]:
    computed = ("training", "weight", "bias")  # by train() and by hooks
    return {(p, name): v for p in parts_of(module) for name, v in vars(p).items() if name not in computed}


def _check_attributes(module: nn.Module, before: dict[tuple[nn.Module, str], Any]) -> None:
    """Raises ProbeError where a forward has set attributes anew."""
    for key, value in _attributes_of(module).items():
        if before.get(key) is not value:
            raise ProbeError(f"its forward writes to {key[1]}")


def _traits_of(candidate: Candidate, dtype: torch.dtype) -> Traits:
    if isinstance(candidate.spec, LinearSpec) or candidate.form.crops is not None:
        return Traits()
    theirs = stand_in(candidate.module, dtype).eval()
    writable = candidate.form.activation != "none" and _is_writable(candidate, theirs)
    return Traits(tuple(map(_format_of, _outputs(candidate, theirs))), writable)


def _outputs(candidate: Candidate, module: Any) -> Iterator[Tensor]:
    """For an image that is contiguous, one that is channels_last, and a contiguous one when the module is not."""
    for memory_format in FORMATS.values():
        yield call(module, *_image(candidate, module, memory_format))
    module.to(memory_format=torch.channels_last)
    yield call(module, *_image(candidate, module, torch.contiguous_format))


def _image(candidate: Candidate, module: nn.Module, memory_format: torch.memory_format) -> list[Tensor]:
    x, *cond = _inputs(candidate, module, _shapes(candidate)[0], torch.Generator().manual_seed(3))
    return [torch.empty_like(x, memory_format=memory_format).copy_(x), *cond]


def _format_of(y: Tensor) -> str | None:
    if y.dim() != 4:
        return None
    return next((name for name, f in FORMATS.items() if y.is_contiguous(memory_format=f)), None)


def _is_writable(candidate: Candidate, module: nn.Module) -> bool:
    """True where the output of a forward may be written to before the backward."""
    with torch.enable_grad():
        x, *cond = _image(candidate, module, torch.channels_last)
        y = call(module, x.requires_grad_(), *cond)
        y += 1
        try:
            y.sum().backward()
        except RuntimeError:
            return False
    return True


def _compare_traits(candidate: Candidate, backend: str, traits: Traits, dtype: torch.dtype) -> None:
    if isinstance(candidate.spec, LinearSpec) or candidate.form.crops is not None:
        return
    _, ours = _twins(candidate, candidate.forward(backend, traits), dtype)
    for y, wanted in zip(_outputs(candidate, ours), traits.formats, strict=True):
        if wanted is not None and not y.is_contiguous(memory_format=FORMATS[wanted]):
            raise ProbeError(f"its output is {wanted}, that of {candidate.spec} is not")
    if traits.writable and not _is_writable(candidate, ours):
        raise ProbeError(f"its output may be written to, that of {candidate.spec} may not")


@torch.no_grad()
def _compare_autocast(candidate: Candidate, traits: Traits, dtype: torch.dtype) -> frozenset[str] | None:
    """Raises ProbeError where the module keeps itself out of autocast, wholly or for numbers beyond half precision.

    Returns the type of device on which autocast was compared where the module's code mentions it, else None.
    """
    for reach, small in ((1.0, 1.0), (1e5, 1e-5)):
        fast = candidate.forward("auto", traits)  # one that is named need not have half precision
        twins = _twins(candidate, fast, dtype)
        for p in itertools.chain(*map(parameters_of, twins)):
            if p.requires_grad:
                p.mul_(small)
        given = _inputs(candidate, twins[0], _shapes(candidate)[0], torch.Generator().manual_seed(4), reach)
        for half, kind in product((torch.bfloat16, torch.float16), (dtype, None)):
            _compare_under_autocast(*twins, [t.to(kind or half) for t in given], half, str(candidate.spec))
    mentioned = fast.watch is not None and fast.watch.names & {"autocast", "custom_fwd", "is_autocast_enabled"}
    return frozenset([given[0].device.type]) if mentioned else None


def _compare_under_autocast(
    theirs: nn.Module, ours: nn.Module, given: list[Tensor], half: torch.dtype, spec: str
) -> None:
    with torch.autocast(given[0].device.type, half):
        try:
            wanted = outputs(theirs, *given)
        except ProbeError:  # it does not run so: nobody calls it so
            return
        got = outputs(ours, *given)
    what = f"its output under autocast to {_short(half)}"
    for have, want in zip(got, wanted, strict=True):
        if have.dtype != want.dtype:
            raise ProbeError(f"{what} is {_short(want.dtype)}, that of {spec} {_short(have.dtype)}")
        if want.isfinite().all() and not have.isfinite().all():
            raise ProbeError(f"{what} is finite where that of {spec} is not")
        finite = want.isfinite() & have.isfinite()
        have, want = have.double()[finite], want.double()[finite]
        if finite.any() and not (have - want).abs().max() <= TOLERANCE[half] * (1e-3 + want.abs().max()):
            raise ProbeError(f"{what} differs from that of {spec}")


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
