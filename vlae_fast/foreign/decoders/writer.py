"""From a traced decoder to the stages of a program: between activations, values are affine in the buffers and in maps.

What does not depend on x or the condition (masks applied, weights normalised) is computed on the way.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves, tree_map

from ...masks import Offset
from ...plan import ACTIVATIONS, MAX_STRIDE, Sites
from ...sampling.program import Program
from .affine import Affine, Dependent, Read, Value, is_identity, stacked, total
from .axes import Axes, AxesError, Recipe, axis_of, recipe
from .maps import Maps, spread
from .phases import Phases, as_phases

# the halves of a gate that is open, or that passes its sign: float32 has no number between these and 1
_ONE = {"tanh": 20.0, "sigmoid": 40.0}
SAME = ("alias", "clone", "contiguous", "detach", "_to_copy", "dropout", "native_dropout", "lift_fresh_copy")
_EMPTY = {"empty_like": "zeros_like", "new_empty": "new_zeros"}  # memory that is still to be filled
FILLED = ("new_ones", "new_zeros", "new_full", "ones_like", "zeros_like", "full_like", *_EMPTY)
MOVES = (
    "view _unsafe_view reshape permute transpose t unsqueeze squeeze select slice split split_with_sizes unbind expand "
    "chunk movedim flatten unflatten alias detach clone contiguous"
).split()
_SPLITS = ("split", "split_with_sizes", "unbind", "chunk")
_VIEWS = tuple(n for n in MOVES if n not in ("clone", "contiguous", *_SPLITS))
_LINEAR = {*MOVES, "addmm", "mm", "add", "sub", "mul", "div", "neg"}  # what is folded where it does not depend on x
_OF_HALVES = (  # which take a `Bounded`
    *("mul", "add", "sub", "rsub", "div", "neg", "clamp", "clamp_min", "clamp_max"),
    *("where", "masked_fill", "index_put", "sum", "logit"),
)
_LARGE = 1e12  # above what features are
_OF_PHASES = {*MOVES, "constant_pad_nd"}  # which take `Phases`
RANDOM = ("bernoulli", "bernoulli_", "native_dropout", "normal_", "rand_like", "randn_like", "uniform_")
KNOWN = "convolutions, linear layers over channels, their sums and products with constants, activations"


@dataclass(frozen=True, eq=False)
class Bounded(Dependent):
    """``gain function(value) + offset``: half of a gate, or the end of a decoder.

    groups: which channels a softmax sums over together. gain, offset: ``[P, h, w]``, or of 1 along each.
    """

    function: str  # tanh, sigmoid, softmax, log_softmax
    value: Value
    gain: Tensor
    offset: Tensor
    groups: Tensor | None = None

    @property
    def axes(self) -> Axes:
        return self.value.axes

    @property
    def is_plain(self) -> bool:
        return bool((self.gain == 1).all() and (self.offset == 0).all())

    def rows(self, index: Tensor, axes: Axes) -> Bounded:
        gain, offset = (t if len(t) == 1 else t[index.to(t.device)] for t in (self.gain, self.offset))
        groups = None if self.groups is None else self.groups[index]
        return Bounded(self.function, self.value.rows(index, axes), gain, offset, groups)


@dataclass(frozen=True, eq=False)
class Later:
    """A tensor that follows from the condition alone, by operations of any kind: it is computed before the image."""

    node: fx.Node

    @property
    def meta(self) -> Any:
        return self.node.meta.get("val")


@dataclass(frozen=True, eq=False)
class Part:
    """A part of a tensor that is written to: the places of its numbers among all of those."""

    base: fx.Node
    index: Tensor


@dataclass(frozen=True, eq=False)
class Job:
    """The facts that a graph is written from: its image's size, and what its nodes are known to be.

    x: the value of the first placeholder. skipped: nodes that only lead to lookups. tables: ``[K, P]`` and axes of
    nodes that are row k at the pixels of level k. of_condition: nodes that do not depend on x. split: constant channels
    are taken out of what a convolution pads. columns: the reads of maps that make the context, with how many channels
    each has; None where they are to be found.
    """

    image: tuple[int, int]
    like: Tensor
    batch: int
    x: Value
    skipped: set[fx.Node]
    tables: Mapping[fx.Node, tuple[Tensor, Axes]]
    of_condition: set[fx.Node]
    split: bool = False
    columns: Mapping[Read, int] | None = None


class Writer(fx.Interpreter):
    """Runs a graph of ATen operations with a `Value` in place of x; a method for each operation.

    Afterwards ``reads`` are the reads of maps, ``result`` is the output.
    """

    def __init__(self, graph: fx.GraphModule, program: Program, maps: Maps, job: Job) -> None:
        super().__init__(graph)
        self.extra_traceback = False  # our errors name what they are about
        self.garbage_collect_values = False  # of what has been written to, views are made again
        nodes = list(graph.graph.nodes)
        self.at = {node: n for n, node in enumerate(nodes)}
        self.last_use = {node: max((self.at[user] for user in node.users), default=-1) for node in nodes}
        self.program, self.maps, self.job, self.image, self.like = program, maps, job, job.image, job.like
        self.reads: list[Read] = []
        self.result: Value | Bounded | None = None
        self.opened: dict[Bounded, Value] = {}  # halves that were written to buffers
        self.written: dict[Phases, Value] = {}  # likewise
        self.one_hots: dict[tuple[int, ...], Affine] = {}  # of levels, by where each run of them starts
        self.first: fx.Node = next(iter(graph.graph.nodes))
        self.node = self.first

    def run_node(self, n: fx.Node) -> Any:
        self.node = n
        if n in self.job.skipped:
            return None
        if n is self.first:
            return self.job.x
        if n in self.job.tables:
            return self._look_up(*self.job.tables[n])
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        name = name_of(n)
        if n in self.job.of_condition:
            return self._of_condition(n, name, args, kwargs)
        if n.op == "output":
            self.result = self._finish(args[0])
            return None
        like_skipped = name in FILLED and not self.job.skipped.isdisjoint(n.all_input_nodes)
        of_x = like_skipped or any(map(_depends, tree_leaves((args, kwargs))))
        if n.op == "placeholder" or n.target is operator.getitem or not of_x:
            return super().run_node(n)
        value = self._with_maps(n, name.removesuffix("_"), args, kwargs)
        if isinstance(value, Value) and value.affine.buffers and self._is_costly_twice(value.affine):
            value = Value(self._settle(value.affine), value.axes)
        if name.endswith("_"):
            self._overwrite(value)
        return value

    def _with_maps(self, n: fx.Node, name: str, args: Any, kwargs: Any) -> Any:
        """An operation on x; what a vector of the condition cannot be beside it, a map that follows from it may be."""
        stages, weights = list(self.program.stages), list(self.program.weights)
        try:
            return self._run(name, args, kwargs)
        except ValueError:
            if self.job.of_condition.isdisjoint(n.all_input_nodes):
                raise
        self.program.stages[:], self.program.weights[:] = stages, weights
        of_condition = self.job.of_condition

        def later(node: fx.Node) -> Any:
            return Later(node) if node in of_condition else self.env[node]

        return self._run(name, fx.node.map_arg(n.args, later), fx.node.map_arg(n.kwargs, later))

    def _of_condition(self, n: fx.Node, name: str, args: Any, kwargs: Any) -> Any:
        """A linear function of a row of the condition stays one; all else is computed before the image."""
        if n.op == "placeholder":
            return self._vector(n) if self._is_row(n) else Later(n)
        leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Value | Later)]
        if name in ("addmm", "mm") and any(isinstance(leaf, Later) for leaf in leaves):
            args = self._widened(n, args)
            leaves = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Value | Later)]
        if all(isinstance(leaf, Value) for leaf in leaves) and leaves:
            if n.target is operator.getitem:
                return args[0][args[1]]
            if name in _LINEAR:
                try:
                    return self._run(name, args, kwargs)
                except ValueError:
                    pass
        return Later(n)

    def _widened(self, n: fx.Node, args: Any) -> Any:
        """The row of a linear layer as a vector, where the layer has not less outputs than inputs."""
        at = 1 if name_of(n) == "addmm" else 0
        row = n.args[at]
        if isinstance(args[at], Later) and isinstance(row, fx.Node) and self._is_row(row):
            if n.meta["val"].shape[1] >= row.meta["val"].shape[1]:
                return [self._vector(row) if i == at else a for i, a in enumerate(args)]
        return args

    def _is_row(self, node: fx.Node) -> bool:
        """True of a node ``[B, n]`` of numbers; the pixels of a map may be the rows of a matrix too."""
        value = node.meta.get("val")
        return (
            isinstance(value, Tensor)
            and value.dim() == 2
            and len(value) == self.job.batch
            and value.is_floating_point()
        )

    def _vector(self, node: fx.Node) -> Value:
        """A node ``[B, n]`` of the condition."""
        shape = node.meta["val"].shape
        axes = (axis_of("B", shape[0]), axis_of("C", shape[1]))
        index = self.maps.given(node, recipe(axes, shape), shape[1], None)
        eye = torch.eye(shape[1]).to(self.like)
        return Value(Affine({(index, None): eye}, self.like.new_zeros(shape[1]), (1, 1)), axes)

    def _run(self, name: str, args: Any, kwargs: Any) -> Any:
        if name in SAME:
            return args[0]
        if name in FILLED:
            self._refuse_random(name)
            value = self.node.meta["val"]
            make = getattr(torch.ops.aten, _EMPTY.get(name, name))
            return make(self.like.new_zeros(value.shape, dtype=value.dtype), *args[1:])
        handler = self._handler(name, args, kwargs)
        if name not in _OF_HALVES and name not in MOVES:
            args = tree_map(lambda a: self._open(a) if isinstance(a, Bounded) else a, args)
        if name not in _OF_PHASES:
            args = tree_map(lambda a: self._write_phases(a) if isinstance(a, Phases) else a, args)
        try:
            return handler(*args, **kwargs)
        except AxesError as error:
            self._fail("operations on channels, whatever their dimensions", f"{name} with {error}")
        except (TypeError, AttributeError, KeyError, RuntimeError, IndexError) as error:  # that no handler expects
            first, *_ = f"{type(error).__name__}: {error}".splitlines()
            self._fail(f"operations that a program can express ({first})", name)

    def _handler(self, name: str, args: Any, kwargs: Any) -> Callable[..., Any]:
        """The method that runs an operation on these arguments."""
        handler: Callable[..., Any] | None = getattr(self, f"_op_{name}", None)
        if handler is None:
            self._refuse_random(name)
            self._fail(KNOWN, name)
        return handler

    def _refuse_random(self, name: str) -> None:
        drawn = next((n for n in (name, *map(name_of, self.node.users)) if n in RANDOM), None)
        if drawn is not None:
            self._fail("operations that give the same in every call, without dropout that stays on", drawn)

    def _fail(self, rule: str, got: object, error: type[ValueError] = ValueError) -> NoReturn:
        refuse(self.node, rule, got, error)

    def _overwrite(self, value: Any) -> None:
        """Makes the result of an operation in place the value of its target, and of all that share its memory."""
        target = self.node.args[0]
        if isinstance(target, fx.Node):
            self._write(target, value)

    def _write(self, target: fx.Node, value: Any, of: fx.Node | None = None) -> None:
        """Sets a tensor, what it is a view of, and the views of both; of: the view that has its value already."""
        self.env[target] = value
        for view in target.users:
            if view is not of and self._is_read(view, target):
                self._renew(view)
        base = target.args[0] if target.args else None
        if not isinstance(base, fx.Node):
            return
        if is_in_place(target):  # its result is its target
            self._write(base, value, target)
        elif name_of(target) in _VIEWS:
            same = name_of(target) in ("alias", "detach")
            self._write(base, value if same else self._with_part(base, target, value), target)

    def _is_read(self, view: fx.Node, base: fx.Node) -> bool:
        """True where a node shares the memory of another, and it or a view of it is read after this operation."""
        if view not in self.env or view in self.job.skipped or not shares_memory(view, base):
            return False
        return self.last_use[view] > self.at[self.node] or any(self._is_read(v, view) for v in view.users)

    def _renew(self, view: fx.Node) -> None:
        """Computes a view again, of what has been written to since, and its own views."""
        node, self.node = self.node, view
        args, kwargs = self.fetch_args_kwargs_from_env(view)
        if is_in_place(view):
            self.env[view] = args[0]
        elif view.target is operator.getitem:
            self.env[view] = args[0][args[1]]
        else:
            self.env[view] = self._run(name_of(view), args, kwargs)
        self.node = node
        for other in view.users:
            if self._is_read(other, view):
                self._renew(other)

    def _with_part(self, base: fx.Node, target: fx.Node, value: Any) -> Any:
        """The tensor that a view is a part of, once the part has another value."""
        self._fail("writes to whole tensors, or to slices", f"one to {name_of(target)} of a tensor")

    def _is_costly_twice(self, value: Affine) -> bool:
        """True where a value takes more than a copy to compute and several operations read it, a split counted once."""
        if value.buffer >= 0 or not self._is_whole(value):
            return False
        users = self._readers()
        while len(users) == 1 and name_of(users[0]) in MOVES:
            users = list(users[0].users)
        parts = [user for user in users if name_of(user) in ("split", "split_with_sizes", "slice", "select", "unbind")]
        return len(self.node.users) > 0 and len(users) > max(1, len(parts))

    def _readers(self) -> list[fx.Node]:
        return list(self.node.users)

    # What stands beside a value

    def _lift(self, value: Any, axes: Axes, size: tuple[int, int], stride: Offset) -> Value:
        """A number, a constant or a tensor of the condition, beside a value of these axes, size and stride."""
        if isinstance(value, Later):
            how = recipe(axes, value.meta.shape)
            rows, area = how.rows(), None if how.is_vector else size
            index = self.maps.given(value.node, how, int(rows.max()) + 1, area, (1, 1) if area is None else stride)
            matrix = torch.eye(int(rows.max()) + 1).to(self.like)[rows]
            read: Read = (index, None if area is None else (0, 0))
            return Value(Affine({read: matrix}, self.like.new_zeros(len(rows)), size, None, stride), axes)
        data = self._constant(value, axes)
        if data.shape[1:] == (1, 1):
            return Value(Affine({}, data[:, 0, 0], size, None, stride), axes)
        return Value(self._fixed(data, size, stride), axes)

    def _lift_beside(self, value: Any, like: Value) -> Value:
        return self._lift(value, like.axes, like.affine.size, like.affine.stride)

    def _fixed(self, data: Tensor, size: tuple[int, int], stride: Offset) -> Affine:
        """A constant ``[P, h, w]``, or of 1 along each, beside a value of a size and stride."""
        index, matrix = self.maps.fixed(spread(data.expand(-1, *size), stride))
        return Affine({(index, (0, 0)): matrix}, self.like.new_zeros(len(data)), size, None, stride)

    def _constant(self, value: Any, axes: Axes) -> Tensor:
        """``[P, h, w]`` of a constant beside a value of these axes, of 1 along what it is the same along."""
        tensor = torch.as_tensor(value, device=self.like.device).to(self.like.dtype)
        how: Recipe = recipe(axes, tensor.shape)
        data = how(tensor, self.job.batch)
        if not _same(data, data[:1]):
            self._fail("constants that are the same for all images", "one that is not")
        data = data[0][how.rows().to(data.device)]
        for axis in (1, 2):
            first = data.narrow(axis, 0, 1)
            if _same(data, first):
                data = first
        return data

    # Stages

    def _grid(self, stride: Offset) -> tuple[int, int]:
        """Rows and columns of the image at a stride."""
        return -(-self.image[0] // stride[0]), -(-self.image[1] // stride[1])

    def _is_whole(self, value: Affine) -> bool:
        """True of a value at all pixels of the image at its stride."""
        return value.size == self._grid(value.stride)

    def _stage(self, value: Affine | Phases, activation: str = "none", factor: int = -1) -> Affine:
        """Appends ``activation(value)`` and returns the new buffer, over the image where the value is larger.

        At a stride the stage computes the pixels that the value has, and each phase is a stage that joins the first.
        factor: a buffer that it is multiplied by, -1: none.
        """
        phases = (value if isinstance(value, Phases) else as_phases(value)).evened()
        stride, period = phases.stride, phases.parts[0, 0].stride[0]
        if 0 in stride:
            self._fail("features of at most the resolution of the image", f"one of {phases.size} of {self.image}")
        if period > MAX_STRIDE:
            self._fail(f"features of at least every {MAX_STRIDE}th row and column", f"one of every {period}th")
        size, whole = phases.size, self._grid(stride)
        within = (0, 0, min(size[0], whole[0]), min(size[1], whole[1]))
        index = -1
        for place, part in phases.parts.items():
            if not part.holds_within(phases.region(place, within[2:])):
                self._fail(f"activations of images of {whole}, or cropped to it", f"one of {size}")
            first = (stride[0] * place[0], stride[1] * place[1])
            own = part.on_pixels(first)
            index = self._append(own, activation, factor, Sites(period, *first), index)
        channels = self.program.channels(index)
        valid = None if all(n <= m for n, m in zip(size, whole, strict=True)) else within
        eye, bias = self.like.new_ones(channels).diag(), self.like.new_zeros(channels)
        return Affine({(index, (0, 0)): eye}, bias, (size[0], size[1]), valid, stride)

    def _append(self, value: Affine, activation: str, factor: int, sites: Sites, joins: int) -> int:
        """Appends a stage for the pixels of some sites of the image, and returns the buffer that it writes."""
        of_x, rest = value.parted()
        terms, residual = {read: w for read, w in of_x.terms.items() if w.any()}, -1
        for (buffer, tap), weight in list(terms.items()) if activation == "none" and factor < 0 else ():
            if buffer and tap == (0, 0) and is_identity(weight) and len(terms) > 1 and residual < 0:
                residual = buffer
                del terms[buffer, tap]
        sources = [_source(buffer, terms) for buffer in sorted({buffer for buffer, _ in terms})]
        if not sources:  # a stage reads something: here zeros, at a tap that never lands in the image
            height = self.image[0]
            zero = value.bias.new_zeros(value.channels, self.program.image_channels, 2 * height + 1, 1)
            sources = [(0, zero, ((-height, 0),))]
        context, bias = self._context(rest)
        return self.program.add(sources, bias, activation, context, residual, factor, sites=sites, joins=joins)

    def _context(self, value: Affine) -> tuple[Tensor | None, Tensor]:
        """The part of a stage that maps give, as a matrix over all columns, and its bias."""
        if not value.terms:
            return None, value.bias
        counts = [self.maps.of(buffer).channels for buffer, _ in value.terms]
        plain = all(_is_raw(self.maps.of(buffer)) for buffer, _ in value.terms)
        if sum(counts) > value.channels and not plain:
            size = None if all(tap is None for _, tap in value.terms) else self.image
            index, matrix = self.maps.sum(value, size)
            terms: dict[Read, Tensor] = {(index, (0, 0) if size else None): matrix}
            value = Affine(terms, torch.zeros_like(value.bias), value.size)
        self.reads += [read for read in value.terms if read not in self.reads]
        if self.job.columns is None:
            return None, value.bias
        parts = [
            value.terms.get(read, value.bias.new_zeros(value.channels, count))
            for read, count in self.job.columns.items()
        ]
        return torch.cat(parts, 1), value.bias

    def _look_up(self, table: Tensor, axes: Axes) -> Value:
        """Row k of a table ``[K, P]`` at every pixel of level k."""
        table = table.to(self.like)
        if (level := self._line_through(table)) is not None:
            return Value(level, axes)
        changes = (table[1:] != table[:-1]).any(1).nonzero().flatten() + 1
        starts = (0, *changes.tolist())
        if starts not in self.one_hots:
            self.one_hots[starts] = self._one_hot(starts, len(table))
        rows = self.one_hots[starts].through(table[[*starts]].T)
        # where there are less channels than rows, the next convolution reads the channels
        settled = len(self.node.users) > 1 or rows.channels < len(starts)
        return Value(self._settle(rows) if settled else rows, axes)

    def _line_through(self, table: Tensor) -> Affine | None:
        """The pixel itself, scaled, where the rows lie on a line."""
        if len(table) < 3:
            return None
        at = torch.linspace(0, 1, len(table), dtype=torch.float64, device="cpu").to(table.device)
        wide = table.double()
        slope, first = wide[-1] - wide[0], wide[0]
        off = (wide - first - at[:, None] * slope).abs().amax(0)
        if not (off <= 4 * torch.finfo(table.dtype).eps * wide.abs().amax(0)).all():
            return None
        return Affine({(0, (0, 0)): slope.to(table)[:, None]}, first.to(table), self.image)

    def _one_hot(self, starts: tuple[int, ...], levels: int) -> Affine:
        """Which run of levels a pixel is in; run r is from ``starts[r]`` to the next start - 1.

        With ``t = (levels - 1) x``, a level but for roundings: ``relu(1 - relu(2 (first - t) - 1/2) -
        relu(2 (t - last) - 1/2))``. Both hinges are 0 on levels first to last and at least 3/2 on others, and roundings
        are less than 1/2: so the result is 1 or 0 to the last bit, and the rows are those of the table. A sum of hinges
        that interpolates the rows would take one stage less, but cancel terms that are ``levels`` times larger.
        """
        first = self.like.new_tensor(starts)
        last = self.like.new_tensor([*starts[1:], levels]) - 1
        slope = torch.full_like(first, 2 * (levels - 1))
        terms: dict[Read, Tensor] = {(0, (0, 0)): torch.cat([-slope, slope])[:, None]}
        hinges = Affine(terms, torch.cat([2 * first, -2 * last]) - 0.5, self.image)
        eye = torch.eye(len(starts)).to(self.like)
        inside = self._stage(hinges, "relu").through(-torch.cat([eye, eye], 1), torch.ones_like(first))
        return self._stage(inside, "relu")

    def _settle(self, value: Affine) -> Affine:
        return value if value.buffer >= 0 else self._stage(value)

    def _open(self, half: Bounded) -> Value:
        """tanh or sigmoid alone: a stage of its own, or a gate whose other half is 1."""
        if half.groups is not None:
            self._fail("softmax at the end alone, over the levels", half.function)
        if half in self.opened:
            return self.opened[half]
        own, tanh = half.value.affine, half.function == "tanh"
        if half.function in ACTIVATIONS:
            out = self._stage(own, half.function)
        else:
            one = Affine({}, torch.full_like(own.bias, _ONE["sigmoid" if tanh else "tanh"]), own.size)
            out = self._stage(stacked((own, one) if tanh else (one, own)), "gate")
        if not half.is_plain:
            return Value(self._plus(self._times(out, half.gain), half.offset), half.value.axes)
        self.opened[half] = Value(out, half.value.axes)
        return self.opened[half]

    @property
    def probabilities(self) -> set[int]:
        """The buffers of sigmoids."""
        return {value.affine.buffer for half, value in self.opened.items() if half.function == "sigmoid"}

    def _plus(self, value: Affine, data: Tensor) -> Affine:
        """A value and a constant ``[P, h, w]``."""
        data = data.expand(value.channels, *data.shape[1:])
        if data.shape[1:] == (1, 1):
            return replace(value, bias=value.bias + data[:, 0, 0])
        return total(value, self._fixed(data, value.size, value.stride))

    def _times(self, value: Affine, data: Tensor) -> Affine:
        """A value times a constant ``[P, h, w]``: a stage times a buffer where it differs from pixel to pixel.

        A mask of pixels, m of 0 and 1, takes sums alone: ``m v = relu(v + a (m - 1)) - relu(-v + a (m - 1))`` for an a
        above all features.
        """
        value, data = self._where_it_counts(value, data.expand(value.channels, *data.shape[1:]))
        if data.shape[1:] == (1, 1):
            return value.scaled(data[:, 0, 0])
        top = data.flatten(1).gather(1, data.flatten(1).abs().argmax(1, keepdim=True))[:, :, None]
        mask = (data != 0).to(data)
        if not (data == mask * top).all():
            return self._product_of(value, self._fixed(data, value.size, value.stride))
        large = min(_LARGE, torch.finfo(data.dtype).max / 16)
        wall = torch.cat([mask, mask]) - 1
        both = stacked([value.scaled(torch.ones_like(value.bias)), value.scaled(-torch.ones_like(value.bias))])
        high = self._fixed(wall, value.size, value.stride)
        own = total(both, high.scaled(torch.full_like(both.bias, large)))
        eye = torch.eye(value.channels).to(self.like) * top[:, :, 0]
        return self._stage(own, "relu").through(torch.cat([eye, -eye], 1))

    def _where_it_counts(self, value: Affine, data: Tensor) -> tuple[Affine, Tensor]:
        """A value without the reads that only pixels of factor 0 have, and its factors, one number for a channel where
        they are that wherever a pixel that it reads exists: outside of the image a buffer is 0, whatever its factor is.
        """
        if data.shape[1:] == (1, 1) or value.size != self.image or len(value.buffers) != len(value.terms):
            return value, data
        data = data.expand(-1, *self.image)
        terms, factor = dict[Read, Tensor](), data.new_full((len(data),), torch.nan)
        single = value.bias == 0
        for (buffer, tap), weight in zip(value.buffers, value.terms.values(), strict=True):
            within = [slice(max(0, -d), max(0, n - max(0, d))) for d, n in zip(tap, self.image, strict=True)]
            seen = data[:, within[0], within[1]].flatten(1)
            live = weight.any(1) & seen.any(1)
            if not live.any():
                continue
            terms[buffer, tap] = torch.where(live[:, None], weight, 0)
            first = seen[:, 0]
            single &= ~live | (seen.eq(first[:, None]).all(1) & (factor.isnan() | (factor == first)))
            factor = torch.where(live, first, factor)
        value, single = replace(value, terms=terms), single & ~factor.isnan()
        out = torch.where(single[:, None, None], factor[:, None, None], data)
        first = out[:, :1, :1]
        return value, first if out.eq(first).all() else out

    def _product_of(self, one: Affine, other: Affine) -> Affine:
        """A stage whose activation is multiplied by a buffer."""
        if one.size != other.size or not (self._is_whole(one) and self._is_whole(other)):
            self._fail(f"products of two images of {self.image}", f"one of {one.size} and {other.size}")
        if one.buffer >= 0 > other.buffer:
            one, other = other, one
        return self._stage(one, "none", self._settle(other).buffer)

    def _write_phases(self, value: Phases) -> Value:
        """Phases as a buffer, that an operation reads."""
        if value not in self.written:
            self.written[value] = Value(self._stage(value), value.axes)
        return self.written[value]

    def _finish(self, value: Any) -> Value | Bounded:
        value = self._write_phases(value) if isinstance(value, Phases) else value
        if not isinstance(value, Value | Bounded):
            self._fail("layers that end in parameters of pixels", "an output that does not depend on x")
        return value


def name_of(node: fx.Node) -> str:
    """The name of the operation, without its overload."""
    return getattr(getattr(node.target, "overloadpacket", node.target), "__name__", str(node.target))


def is_in_place(node: fx.Node) -> bool:
    return node.op == "call_function" and name_of(node).endswith("_")


def shares_memory(view: fx.Node, base: fx.Node) -> bool:
    """True of a node whose result is another one, a view of it, or the views that it is split into."""
    if not view.args or view.args[0] is not base:
        return False
    if view.target is operator.getitem:
        return name_of(base) in _SPLITS
    return is_in_place(view) or name_of(view) in (*_VIEWS, *_SPLITS)


def place_of(node: fx.Node) -> str:
    """`` in Kind at 'path'`` of the module that an operation comes from; nothing in the decoder itself."""
    path, kind = next(reversed((node.meta.get("nn_module_stack") or {"": ("", "")}).values()))
    return f" in {kind.rpartition('.')[2]} at {path!r}" if path else ""


class OverPixelsError(ValueError):
    """A linear layer reads the pixels of an image side by side: no program of stages has that, a MADE may."""


def refuse(node: fx.Node, rule: str, got: object, error: type[ValueError] = ValueError) -> NoReturn:
    """An error that names the module which the operation comes from."""
    raise error(f"fast_sampler: decoder must be built of {rule}, got {got}{place_of(node)}")


def _same(a: Tensor, b: Tensor) -> bool:
    """True where all are equal; memory that is still to be filled may be NaN."""
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


def _depends(value: Any) -> bool:
    return isinstance(value, Dependent | Phases | Later | Part)


def _is_raw(entry: Any) -> bool:
    """True of a row of the condition as it is given."""
    return getattr(getattr(entry, "node", None), "op", "") == "placeholder" and entry.size is None


def reads_of(value: Any) -> list[Read]:
    if isinstance(value, Affine):
        return list(value.terms)
    if isinstance(value, Phases):
        return value.reads
    if isinstance(value, Dependent):
        return [read for part in vars(value).values() for read in reads_of(part)]
    return [read for part in value for read in reads_of(part)] if isinstance(value, (list, tuple)) else []


def _source(buffer: int, terms: dict[Any, Tensor]) -> tuple[int, Tensor, Sequence[Any]]:
    """All reads of a buffer as one weight."""
    taps = sorted(tap for b, tap in terms if b == buffer)
    ry, rx = (max(abs(tap[axis]) for tap in taps) for axis in (0, 1))
    first = terms[buffer, taps[0]]
    weight = first.new_zeros(*first.shape, 2 * ry + 1, 2 * rx + 1)
    for dy, dx in taps:
        weight[:, :, ry + dy, rx + dx] = terms[buffer, (dy, dx)]
    return buffer, weight, taps
