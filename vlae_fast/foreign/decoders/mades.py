"""Other people's MADEs of bits and of levels: a module ``x [B, D] -> logits``, traced into layers and sampled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, fx, nn

from ...sampling.made import MADESampler, MaskedNetwork, check_pixels, levels_of
from ..flows.structure import NotCoveredError
from .made_checks import check_end, check_vectors, compare
from .made_inputs import ROWS, Form, Probes, forms
from .made_trace import Tracer, traced
from .made_units import Ended, Units, chained, degrees_of
from .output import pick
from .pixels import scale_told
from .probabilities import logit_of
from .trace import as_it_is

Call = Callable[[nn.Module, Tensor, Any], Any]
_LAYOUTS = {"BDK": "DK", "BKD": "KD"}


@dataclass(frozen=True)
class Asked:
    """The arguments of `fast_sampler` for a MADE of D dimensions; levels: None of bits. output: of what it returns."""

    dim: int
    levels: tuple[int, ...] | None = None
    pixels: Any = None
    layout: str | None = None
    call: Call | None = None
    output: Any = None

    @property
    def counts(self) -> tuple[int, ...]:
        """K of each dimension."""
        return self.levels or (2,) * self.dim

    def run(self, made: nn.Module, x: Tensor, _: Any = ()) -> Any:
        return pick(self.result(made, x), self.output, len(x) * sum(self.levels or (1,) * self.dim))

    def result(self, made: nn.Module, x: Tensor) -> Any:
        return made(x) if self.call is None else self.call(made, x, None)


class ForeignMADESampler(MADESampler):
    """`MADESampler` of a module that somebody else wrote, by a trace of its forward.

    Args:
        made: the module, in evaluation mode while it is traced. asked: how it is called and read.
        backend: as in `MADESampler`.

    Raises:
        ValueError: it is no network of masked linear layers, or a logit sees its own dimension or a later one.
    """

    caller = "fast_sampler"

    def __init__(self, made: nn.Module, asked: Asked, backend: str = "auto") -> None:
        self._set_up(lambda: trace_made(made, asked), backend, asked.levels)


@torch.no_grad()
def trace_made(made: nn.Module, asked: Asked) -> MaskedNetwork:
    """The layers of a module, which are compared with it on vectors drawn at random.

    Raises:
        ValueError: it is no network of masked linear layers, or not autoregressive.
    """
    with as_it_is(made):
        like = next((p for p in made.parameters() if p.is_floating_point()), torch.zeros(())).detach()
        probes, errors = Probes(asked.counts), dict[type, list[str]]()
        for form in forms(asked.pixels, asked.counts):
            try:
                graph, converts, decides = traced(asked.run, made, form.of(probes.values[:ROWS].to(like.device), like))
            except Exception as error:
                errors.setdefault(type(error), []).append(f"{type(error).__name__}: {error}".splitlines()[0])
                continue
            try:
                if _is_guess(form, asked):
                    _check_scale(graph, asked.counts)
                try:
                    network = _network(made, asked, form, Tracer(graph, form, probes, like))
                except _SkipError:
                    network = _network(made, asked, form, Tracer(graph, form, probes, like, activates=True))
            except _OtherFormError:
                continue
            if decides:
                check_vectors(made, asked, form, like)
            if converts and _is_guess(form, asked):
                rule = (
                    "pixels must be given where forward turns its input into real numbers and does not divide it by "
                    "levels - 1: (low, high), what it is given for the first level and the last, or 'index'"
                )
                _fail(rule, None)
            return network
        first = next(iter(errors.values()))[0]
        rule = f"decoder must take x [B, {asked.dim}] and be traceable by torch.fx"
        raise ValueError(f"fast_sampler: {rule}, got {first}")


class _OtherFormError(Exception):
    """A module shows by what it makes of its input that it wants another one."""


def _is_guess(form: Form, asked: Asked) -> bool:
    """True where a module of more than two levels is given numbers in [0, 1] that nobody asked for."""
    return asked.pixels is None and form.scale == (0.0, 1.0) and max(asked.counts) > 2


def _check_scale(graph: fx.GraphModule, counts: Sequence[int]) -> None:
    """Raises _OtherFormError where the first that a module does is to divide its input by a scale of levels."""
    if any(scale_told(graph.graph, levels) for levels in set(counts)):
        raise _OtherFormError


class _SkipError(ValueError):
    """A layer reads several, which an activation cannot carry."""


def _network(made: nn.Module, asked: Asked, form: Form, tracer: Tracer) -> MaskedNetwork:
    out = tracer.trace()
    logits, rows = _logits(asked, out)
    if len(tracer.activations) > 1:
        names = ", ".join(sorted(tracer.activations))
        _fail("a decoder of vectors must have one kind of activation (a sigmoid is tanh)", names)
    activation = next(iter(tracer.activations), "relu")
    tables, inputs_of = _inputs(tracer, asked)
    if form.scale == (0.0, 1.0) and asked.pixels is None and _looks_up(tables, inputs_of, asked.counts):
        raise _OtherFormError
    fitting, errors = [], []
    for order in rows:
        layers = [*tracer.layers, logits.rows(order)]
        try:
            fitting.append((_layers(layers, tables, inputs_of, activation, asked), order))
        except NotCoveredError as error:
            errors.append(str(error))
    if not fitting:
        raise ValueError(f"fast_sampler: decoder must give each dimension a logit by those before it, got: {errors[0]}")
    if len(fitting) > 1 and not fitting[0][1].equal(fitting[1][1]):
        _fail("layout must be BDK or BKD where the outputs can be read in both ways, as of a last layer of zeros", None)
    network, order = fitting[0]
    compare(made, asked, form, network, out, order)
    if asked.levels is None:
        check_end(made, asked, form, tracer.like, isinstance(out, Ended))
    return network


def _fail(rule: str, got: object) -> NoReturn:
    raise ValueError(f"fast_sampler: {rule}, got {got}")


def _logits(asked: Asked, out: Units | Ended) -> tuple[Units, list[Tensor]]:
    """The outputs, and in which orders they may be the logits of dimension after dimension."""
    value, orders = _orders(asked, out)
    if isinstance(out, Ended) and asked.levels is not None:
        orders = [order for order in orders if _is_over_levels(out, order, asked.levels)]
        if not orders:
            _fail(f"decoder must end in a {out.name} over the levels of each dimension", "one over others")
    return value, orders


def _is_over_levels(end: Ended, order: Tensor, levels: Sequence[int]) -> bool:
    """True where what sums to 1 are the levels of one dimension, in an order of the outputs."""
    assert end.groups is not None
    of = [own.unique() for own in end.groups[order].split(list(levels))]
    return all(len(own) == 1 for own in of) and len(torch.cat(of).unique()) == len(levels)


def _orders(asked: Asked, out: Units | Ended) -> tuple[Units, list[Tensor]]:
    value = out.value if isinstance(out, Ended) else out
    count = out.index.numel() if isinstance(out, Ended) else len(out.bias)
    index = torch.arange(count, device="cpu")
    if asked.levels is None:
        if count != asked.dim:
            _fail(f"a decoder of vectors must give [B, {asked.dim}], a logit a dimension", f"{count} numbers")
        return (_of_bits(out) if isinstance(out, Ended) else value), [index]
    if count != sum(asked.levels):
        rule = f"a decoder of vectors must give {sum(asked.levels)} numbers, a logit for each level of each dimension"
        _fail(rule, count)
    if isinstance(out, Ended):
        if out.name == "sigmoid" or not ((out.gain == 1) & (out.offset == 0)).all():
            _fail("decoder of levels may end in softmax or log_softmax alone", out.name)
        value, index = out.value, out.index.flatten()
    shape, levels = tuple(out.index.shape if isinstance(out, Ended) else out.shape), asked.levels
    if len(set(levels)) > 1:
        return value, [index]
    orders = {"DK": index, "KD": index.view(levels[0], -1).T.flatten()}
    if asked.layout is not None:
        return value, [orders[_LAYOUTS[asked.layout]]]
    if asked.dim != levels[0] and shape in ((asked.dim, levels[0]), (levels[0], asked.dim)):
        return value, [orders["DK" if shape[0] == asked.dim else "KD"]]
    return value, list(orders.values())


def _of_bits(end: Ended) -> Units:
    """The logit of ``p = gain sigmoid(v) + offset``: v, -v, or that of the offset where p is it alone."""
    gain, offset = end.gain, end.offset
    kept, turned = (gain == 1) & (offset == 0), (gain == -1) & (offset == 1)
    fixed = (gain == 0) & (offset >= 0) & (offset <= 1)
    if end.name != "sigmoid" or not (kept | turned | fixed).all():
        rule = "decoder of bits may end in probabilities sigmoid(v), 1 - sigmoid(v), or constants of some dimensions"
        _fail(rule, f"{end.name} times {gain.min():g} to {gain.max():g} plus {offset.min():g} to {offset.max():g}")
    constant = logit_of(torch.where(fixed, offset, 0.5).double()).to(gain)
    return end.value.rows(end.index.flatten()).times(gain).plus(constant)


def _inputs(tracer: Tracer, asked: Asked) -> tuple[Tensor, Tensor]:
    """Numbers ``[K, I]`` of every input by its dimension's level, and the dimensions ``[I]``."""
    if not tracer.tables:
        _fail("decoder must be a function of x", "one that does not look at it")
    tables, dimensions = zip(*tracer.tables, strict=True)
    return torch.cat(tables, 1), torch.cat(dimensions)


def _looks_up(tables: Tensor, inputs_of: Tensor, counts: Sequence[int]) -> bool:
    """True where numbers in [0, 1] reach fewer rows than a dimension has levels."""
    for d in range(len(counts)):
        own = tables[: counts[d], inputs_of == d]
        if own.shape[1] and len(own.unique(dim=0)) < counts[d]:
            return True
    return False


def _layers(layers: Sequence[Units], tables: Tensor, inputs_of: Tensor, activation: str, asked: Asked) -> MaskedNetwork:
    """The network as `made_sample` takes it: of bits themselves, or of the rows of levels of each dimension."""
    carried = any(0 in layer.terms for layer in layers[1:])  # through a relu: no input may be negative
    least = torch.where(inputs_of < 0, tables[0], tables.amin(0) if carried else 0)  # constants are left out
    tables, layers = tables - least, [_shifted(layer, least) for layer in layers]
    weights, biases, carries = chained(layers, len(inputs_of))
    if carries and activation != "relu":
        rule = "a sum over layers (a skip connection) must be of a decoder whose activation is relu"
        raise _SkipError(f"fast_sampler: {rule}, got {activation}")
    own = []
    for d, k in enumerate(asked.counts):
        here = inputs_of == d
        own.append(_inputs_of_one(tables[:k, here], weights[0][:, here], asked.levels is None))
    weights[0] = torch.cat([weight for _, weight, _ in own], 1)
    biases[0] = torch.stack([biases[0], *(bias for *_, bias in own if bias is not None)]).sum(0)
    of = torch.cat([torch.full((weight.shape[1],), d, device="cpu") for d, (_, weight, _) in enumerate(own)])
    counts = torch.tensor(asked.levels or (1,) * asked.dim, device="cpu")
    outputs_of = torch.arange(asked.dim, device="cpu").repeat_interleave(counts)
    degrees = [d.to(tables.device) for d in degrees_of(weights, of, outputs_of)]
    return MaskedNetwork(
        weights, biases, degrees, activation, tables=None if asked.levels is None else [table for table, *_ in own]
    )


def _shifted(layer: Units, least: Tensor) -> Units:
    """The same number of inputs that are `least` lower."""
    weight = layer.terms.get(0)
    return layer if weight is None else layer.plus(weight @ least[: weight.shape[1]])


def _inputs_of_one(table: Tensor, weight: Tensor, bit: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Table ``[K, E]``, weight ``[P, E]`` and bias of a dimension's inputs, as few as there need to be.

    A bit is its own input: its rows are a constant and a multiple of it. More than K inputs are one-hot rows of K.
    """
    if bit:
        return table, (weight @ (table[1] - table[0]))[:, None], weight @ table[0]
    levels, inputs = table.shape
    if not inputs:
        return table.new_zeros(levels, 1), weight.new_zeros(len(weight), 1), None
    return (table, weight, None) if inputs <= levels else (torch.eye(levels).to(table), weight @ table.T, None)


def asked_of(
    dim: int, likelihood: Any, levels: Any, pixels: Any, layout: Any, call: Call | None, output: Any = None
) -> Asked:
    """The arguments of `fast_sampler` for vectors, checked."""
    emit = getattr(likelihood, "emit", None)
    if likelihood is not None and getattr(emit, "kind", None) not in ("bernoulli", "categorical"):
        _fail(f"likelihood must be bernoulli or categorical for vectors ({dim},)", repr(likelihood))
    if emit is not None and emit.kind == "categorical":
        if levels is not None:
            _fail("levels must not be given beside a categorical likelihood", repr(levels))
        levels = emit.levels
    counts = levels_of("fast_sampler", levels, dim)
    if isinstance(pixels, str) and (counts is None or pixels not in ("index", "one_hot")):
        ways = "(low, high)" if counts is None else "(low, high), 'index' or 'one_hot'"
        _fail(f"pixels must be {ways} for vectors ({dim},)", repr(pixels))
    if layout is not None and counts is None:
        _fail(f"layout must not be given for vectors ({dim},)", repr(layout))
    if layout is not None and (len(set(counts or ())) > 1 or layout not in _LAYOUTS):
        _fail(f"layout must be BDK or BKD, of as many levels in each dimension, for vectors ({dim},)", repr(layout))
    if not isinstance(pixels, str | None):
        check_pixels("fast_sampler", pixels, counts is not None)
    return Asked(dim, counts, pixels, layout, call, output)


def sampler_of_vectors(made: nn.Module, asked: Asked, others: Mapping[str, Any], backend: str) -> ForeignMADESampler:
    """The sampler of `fast_sampler` for vectors; others: its arguments that only images have, by name."""
    for name, value in others.items():
        if value is not None:
            _fail(f"{name} must not be given for vectors ({asked.dim},)", repr(value))
    return ForeignMADESampler(made, asked, backend)
