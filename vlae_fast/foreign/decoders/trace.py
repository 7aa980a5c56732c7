"""A program from somebody else's decoder, by a trace of its forward."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode

from ...plan import Emit
from ...sampling.program import Program
from ...sampling.schedule import derive
from .attention import Attention
from .condition import Condition
from .decisions import Decisions
from .lookups import Lookups, TracedOneHot, find_lookups
from .maps import ConditionNetwork, Maps
from .output import Reading, read_output
from .pixels import Pixels, as_index, scale_told
from .rewrites import drop_unused, rewrite
from .writer import Job


@dataclass(frozen=True, eq=False)
class Trace:
    """A decoder's forward as a graph of ATen operations, and what it was given.

    like: an image ``[B, C, H, W]`` of zeros. converts: it turns its own input into real numbers. decides: it asks for
    values that depend on its input, as asserts do.
    """

    graph: fx.GraphModule
    like: Tensor
    pixels: Pixels
    condition: Condition
    converts: bool
    decides: bool


class TraceError(Exception):
    """A forward that cannot be run, or not be followed, with an input: the text is that of its error.

    calls: how many functions of torch it had called before.
    """

    def __init__(self, text: str, calls: int) -> None:
        super().__init__(text)
        self.calls = calls


@contextmanager
def as_it_is(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, and afterwards every part's own mode and attributes: some keep a tensor of their batch."""
    kept = [(part, part.training, dict(vars(part))) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode, attributes in kept:
            for name in vars(part).keys() - attributes.keys():
                del vars(part)[name]
            vars(part).update(attributes)
            part.training = mode


def uncompiled() -> Any:
    """A context in which what `torch.compile` made runs as it was written: nothing else can be traced."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled; to import it takes seconds
        return nullcontext()
    return torch._dynamo.config.patch(error_on_nested_fx_trace=False)


class Root:
    """A decoder as a function, by whose ``_orig_mod`` the tracer knows the module that each operation comes from."""

    def __init__(self, decoder: nn.Module, run: Callable[[nn.Module, Tensor, Sequence[Tensor]], Tensor]) -> None:
        self._orig_mod, self._run, self.converts, self.calls = decoder, run, False, 0
        self.decides = False  # by values of its inputs

    def __call__(self, x: Tensor, *others: Tensor) -> Tensor:
        with TracedOneHot(), Decisions() as decisions, _Conversions(x) as conversions:
            try:
                return self._run(self._orig_mod, x, others)
            finally:
                self.converts, self.calls, self.decides = conversions.found, conversions.calls, decisions.of_input


class _Conversions(TorchFunctionMode):
    """Notes where the input itself is turned into real numbers, as integers are, and counts the calls."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x, self.found, self.calls = x, False, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = func in (torch.Tensor.float, torch.Tensor.double)
        typed = func in (torch.Tensor.to, torch.Tensor.type) and len(args) > 1 and isinstance(args[1], torch.dtype)
        if (named or typed) and args[0] is self.x:
            self.found = True
        self.calls += 1
        return func(*args, **(kwargs or {}))


def _in_parts(x: Tensor, weight: Tensor, bias: Tensor | None, cond: Tensor | None, *options: Any) -> Any:
    """A masked convolution without context and residual: one with the condition that a convolution makes, and a sum."""
    own = options[:5]
    context, context_weight, residual = options[5:] + (None, None, False)[len(options) - 5 :]
    if context is None and not residual:
        return NotImplemented
    if context is not None and context_weight is not None:
        added = F.conv2d(context, context_weight[:, :, None, None])
        if cond is not None:
            added = added + (cond if cond.dim() == 4 else cond[:, :, None, None])
        cond = added
    out = torch.ops.vlae_fast.masked_conv(x, weight, bias, cond, *own)
    return out + x if residual else out


DECOMPOSED = {torch.ops.vlae_fast.masked_conv.default: _in_parts}  # what the stages of a program say otherwise


@torch.no_grad()
def trace(
    decoder: nn.Module,
    run: Callable[[nn.Module, Tensor, Sequence[Tensor]], Tensor],
    pixels: Pixels,
    condition: Condition,
    like: Tensor,
) -> Trace:
    """The forward on images like ``[B, C, H, W]``; ``run(decoder, x, tensors)`` calls it. Raises TraceError."""
    root = Root(decoder, run)
    try:
        graph = make_fx(root, DECOMPOSED, record_module_stack=True)(pixels.of(like), *condition.rows(len(like)))
    except Exception as error:
        first, *_ = f"{type(error).__name__}: {error}".splitlines()
        raise TraceError(first, root.calls) from error
    rewrite(graph.graph)
    drop_unused(graph.graph)
    return Trace(graph, like, pixels, condition, root.converts, root.decides)


@torch.no_grad()
def find_scale(traced: Trace, emit: Emit, told: Any) -> tuple[Pixels, Lookups]:
    """The scale of the decoder's pixels, and its lookups; told: ``pixels`` of `fast_sampler`.

    Where nothing is told they are in [0, 1], unless the forward shows that they are the levels: it divides them by a
    scale of levels, or looks up by them what it cannot by numbers in [0, 1].
    """
    others, own = traced.condition.rows(len(traced.like)), traced.pixels
    levels = emit.levels
    index = as_index(own, levels)

    def lookups_of(pixels: Pixels) -> Lookups:
        return find_lookups(traced.graph, pixels.of, traced.like, others, levels)

    if told is not None or own.integer or not levels:
        return own, lookups_of(own)
    if scale_told(traced.graph.graph, levels):
        return index, lookups_of(index)
    found = lookups_of(own)
    if found.tables and found.distinct < levels:
        try:
            other = lookups_of(index)
        except ValueError:
            other = found
        if other.distinct > found.distinct:
            return index, other
    if traced.converts and not found.tables and levels > 2:
        rule = (
            "pixels must be given where forward turns its input into real numbers and does not divide it by "
            "levels - 1: (low, high), what it is given for levels 0 and levels - 1, or 'index'"
        )
        raise ValueError(f"fast_sampler: {rule}, got None")
    return own, found


@dataclass(frozen=True, eq=False)
class Written:
    """The result of a trace beside the stages: how its input and output are read, and the network of its condition."""

    pixels: Pixels
    reading: Reading
    network: ConditionNetwork | None
    batch: int


@torch.no_grad()
def write(traced: Trace, program: Program, emit: Emit, params: int, told: Any, layout: str | None) -> Written:
    """Appends the stages of a traced decoder, whose output are so many parameters of pixels.

    Returns:
        network None where the condition is one row of real numbers and enters through linear maps alone.

    Raises:
        ValueError: an operation has no place in a program; it is named with its module's path.
    """
    pixels, lookups = find_scale(traced, emit, told)
    image = (traced.like.shape[2], traced.like.shape[3])
    first: Written | None = None
    for split in (False, True):
        draft = Program(program.image_channels)
        try:
            written = _write(traced, draft, (emit, params, layout), pixels, lookups, split)
        except ValueError:
            if first is None:
                raise
            break
        if first is None or _is_causal(draft, image):
            first = written
            program.stages[:], program.weights[:] = draft.stages, draft.weights
        if _is_causal(draft, image):
            break
    assert first is not None
    return first


def _is_causal(program: Program, image: tuple[int, int]) -> bool:
    try:
        derive(program.stages, image)
    except ValueError:
        return False
    return True


def _write(
    traced: Trace,
    program: Program,
    wanted: tuple[Emit, int, str | None],
    pixels: Pixels,
    lookups: Lookups,
    split: bool,
) -> Written:
    """Writes twice where maps are read: their columns are known once all stages are."""
    batch, channels, *size = traced.like.shape
    image = (size[0], size[1])
    columns: dict[Any, int] | None = None
    for _ in range(2):
        job = Job(
            image,
            traced.like.new_zeros(()),
            batch,
            pixels.value(traced.like, batch),
            lookups.skipped,
            lookups.tables,
            _of_condition(traced.graph.graph),
            split,
            columns,
        )
        program.stages.clear()
        program.weights.clear()
        maps = Maps(image)
        writer = Attention(traced.graph, program, maps, job)
        writer.run(None, *traced.condition.rows(batch))
        reading = read_output(writer, channels, *wanted)
        if not writer.reads or columns is not None:
            break
        columns = {read: maps.of(read[0]).channels for read in sorted(writer.reads, key=str)}
    _drop_unread(program)
    network = None
    if columns is not None and not _is_z(list(columns), maps, traced):
        network = ConditionNetwork(traced.graph, maps, list(columns), batch)
    return Written(pixels, reading, network, batch)


def _drop_unread(program: Program) -> None:
    """Leaves out the stages that nothing reads."""
    last = len(program.stages)
    read = {last}
    for index in range(last, 0, -1):
        if program.stages[index - 1].writes(index - 1) in read:
            read |= {index, *(buffer for buffer, _ in program.stages[index - 1].reads)}
    place = {-1: -1, 0: 0} | {index: n + 1 for n, index in enumerate(sorted(read - {-1, 0}))}
    stages, weights, at = [], [], 0
    for index, stage in enumerate(program.stages, 1):
        if index in read:
            sources = tuple(source._replace(buffer=place[source.buffer]) for source in stage.sources)
            residual, factor, joins = place[stage.residual], place[stage.factor], place[stage.joins]
            stages.append(stage._replace(sources=sources, residual=residual, factor=factor, joins=joins))
            weights += program.weights[at : at + stage.n_weights]
        at += stage.n_weights
    if at != len(program.weights):
        raise RuntimeError(f"fast_sampler: a program of {len(program.weights)} weights, {at} expected")
    program.stages[:], program.weights[:] = stages, weights


def _is_z(columns: Sequence[Any], maps: Maps, traced: Trace) -> bool:
    """True where a program reads the condition as it is given, one row of real numbers."""
    if len(columns) != 1 or len(traced.condition.examples) != 1:
        return False
    node = getattr(maps.of(columns[0][0]), "node", None)
    return node is not None and node.op == "placeholder" and columns[0][1] is None


def _of_condition(graph: fx.Graph) -> set[fx.Node]:
    """The nodes that depend on the condition and not on x."""
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    of_x, of_z = set(placeholders[:1]), set(placeholders[1:])
    for node in graph.nodes:
        for kind in (of_x, of_z):
            if kind.intersection(node.all_input_nodes):
                kind.add(node)
    return of_z - of_x


def kept_sizes(decoder: nn.Module) -> list[int]:
    """Batch sizes that a decoder may be kept to, by tensors that it stores beside parameters and buffers."""
    kept = (v for part in decoder.modules() for v in vars(part).values() if isinstance(v, Tensor) and v.dim() > 1)
    return sorted({len(t) for t in kept if len(t)})
