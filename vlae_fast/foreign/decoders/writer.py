"""From a traced decoder to the stages of a program: between activations, values are affine in the buffers and in z.

What does not depend on x or z (masks applied, weights normalised) is computed on the way.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves, tree_map

from ...sampling.program import Program
from .affine import Affine, is_identity

_SAME = ("alias", "clone", "contiguous", "detach", "_to_copy", "dropout", "native_dropout")
FILLED = ("new_ones", "new_zeros", "new_full", "ones_like", "zeros_like", "full_like")


@dataclass(frozen=True, eq=False)
class Bounded:
    """tanh or sigmoid of a value: half of a gate."""

    function: str
    value: Affine


class Writer(fx.Interpreter):
    """Runs a graph of ATen operations with `Affine` values in place of x and z; a method for each operation.

    given: values of nodes that are not to be computed, None of those that nobody reads. tables: ``[K, P]`` of nodes
    that are row k at the pixels of level k.
    """

    def __init__(
        self,
        graph: fx.GraphModule,
        program: Program,
        image: tuple[int, int],
        like: Tensor,
        given: Mapping[fx.Node, Affine | None],
        tables: Mapping[fx.Node, Tensor],
    ) -> None:
        super().__init__(graph)
        self.extra_traceback = False  # our errors name what they are about
        self.program, self.image, self.like, self.given, self.tables = program, image, like, given, tables
        self.one_hots: dict[tuple[int, ...], Affine] = {}  # of levels, by where each run of them starts
        self.node: fx.Node = next(iter(graph.graph.nodes))

    def run_node(self, n: fx.Node) -> Any:
        self.node = n
        if n in self.given:
            return self.given[n]
        if n in self.tables:
            return self._look_up(self.tables[n])
        name = name_of(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if n.op == "output":
            return self._finish(args[0])
        like_skipped = name in FILLED and not self.given.keys().isdisjoint(n.all_input_nodes)
        of_x = like_skipped or any(map(_depends, tree_leaves((args, kwargs))))
        if n.op == "placeholder" or n.target is operator.getitem or not of_x:
            return super().run_node(n)
        value = self._run(name.removesuffix("_"), args, kwargs)
        if isinstance(value, Affine) and value.terms and value.size == self.image and self._is_costly_twice(value):
            value = self._settle(value)
        if name.endswith("_"):
            self._overwrite(value)
        return value

    def _run(self, name: str, args: Any, kwargs: Any) -> Any:
        if name in _SAME:
            return args[0]
        if name in FILLED:
            value = self.node.meta["val"]
            return getattr(torch.ops.aten, name)(self.like.new_zeros(value.shape, dtype=value.dtype), *args[1:])
        handler: Callable | None = getattr(self, f"_op_{name}", None)
        if handler is None:
            self._fail("masked convolutions, 1x1 convolutions, gates, activations, sums and crops of them", name)
        if name != "mul":
            args = tree_map(lambda a: self._open(a) if isinstance(a, Bounded) else a, args)
        try:
            return handler(*args, **kwargs)
        except (TypeError, AttributeError, KeyError, RuntimeError) as error:  # arguments that no handler expects
            first, *_ = f"{type(error).__name__}: {error}".splitlines()
            self._fail(f"operations that a program can express ({first})", name)

    def _fail(self, rule: str, got: object) -> NoReturn:
        refuse(self.node, rule, got)

    def _overwrite(self, value: Any) -> None:
        """Makes the result of an operation in place the value of its target, under every name of the target."""
        target = self.node.args[0]
        while isinstance(target, fx.Node):
            self.env[target] = value
            target = target.args[0] if "alias" in str(target.target) or "detach" in str(target.target) else None

    def _is_costly_twice(self, value: Affine) -> bool:
        """True where a value takes more than a copy to compute and several operations read it, a split counted once."""
        parts = [user for user in self.node.users if str(user.target).startswith(("aten.split", "aten.slice"))]
        return value.buffer < 0 and len(self.node.users) > max(1, len(parts))

    # Stages

    def _stage(self, value: Affine, activation: str = "none") -> Affine:
        """Appends ``activation(value)`` and returns the new buffer."""
        if any(n > m for n, m in zip(value.size or (1, 1), self.image, strict=True)):
            self._fail(f"activations of images of {self.image}", f"one of {value.size}")
        if not value.terms and (activation != "none" or value.size != self.image):
            self._fail("layers that see z through linear maps alone", f"{activation} of it")
        terms, residual = dict(value.terms), -1
        for (buffer, tap), weight in value.terms.items() if activation == "none" else ():
            if buffer and tap == (0, 0) and is_identity(weight) and len(terms) > 1 and residual < 0:
                residual = buffer
                del terms[buffer, tap]
        sources = [_source(buffer, terms) for buffer in sorted({buffer for buffer, _ in terms})]
        if not sources:  # a stage reads something: here zeros, at a tap that never lands in the image
            height = self.image[0]
            zero = value.bias.new_zeros(value.channels, self.program.image_channels, 2 * height + 1, 1)
            sources = [(0, zero, ((-height, 0),))]
        index = self.program.add(sources, value.bias, activation, value.context, residual)
        channels = self.program.channels(index)
        eye = value.bias.new_ones(channels).diag()
        return Affine({(index, (0, 0)): eye}, value.bias.new_zeros(channels), None, value.size)

    def _look_up(self, table: Tensor) -> Affine:
        """Row k of a table ``[K, P]`` at every pixel of level k."""
        changes = (table[1:] != table[:-1]).any(1).nonzero().flatten() + 1
        starts = (0, *changes.tolist())
        if starts not in self.one_hots:
            self.one_hots[starts] = self._one_hot(starts, len(table))
        rows = self.one_hots[starts].through(table[[*starts]].T.to(self.like))
        # where there are less channels than rows, the next convolution reads the channels
        return self._settle(rows) if len(self.node.users) > 1 or rows.channels < len(starts) else rows

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
        hinges = Affine(
            {(0, (0, 0)): torch.cat([-slope, slope])[:, None]},
            torch.cat([2 * first, -2 * last]) - 0.5,
            None,
            self.image,
        )
        eye = torch.eye(len(starts)).to(self.like)
        inside = self._stage(hinges, "relu").through(-torch.cat([eye, eye], 1), torch.ones_like(first))
        return self._stage(inside, "relu")

    def _settle(self, value: Affine) -> Affine:
        return value if value.buffer >= 0 else self._stage(value)

    def _open(self, half: Bounded) -> Affine:
        """tanh or sigmoid alone."""
        return self._stage(half.value, half.function)

    def _finish(self, value: Any) -> None:
        if isinstance(value, Bounded):
            value = self._open(value)
        if not isinstance(value, Affine) or value.size != self.image:
            self._fail("layers that end in parameters [B, P, H, W]", f"an output of {type(value).__name__.lower()}")
        if value.buffer != len(self.program.stages) or not self.program.stages:
            self._stage(value)


def name_of(node: fx.Node) -> str:
    """The name of the operation, without its overload."""
    return getattr(getattr(node.target, "overloadpacket", node.target), "__name__", str(node.target))


def refuse(node: fx.Node, rule: str, got: object) -> NoReturn:
    """ValueError that names the module which the operation comes from."""
    path, kind = next(reversed((node.meta.get("nn_module_stack") or {"": ("", "")}).values()))
    where = f" in {kind.rpartition('.')[2]} at {path!r}" if path else ""
    raise ValueError(f"fast_sampler: decoder must be built of {rule}, got {got}{where}")


def _depends(value: Any) -> bool:
    return isinstance(value, Affine | Bounded)


def reads_of(value: Any) -> list[tuple[int, Any]]:
    if isinstance(value, Bounded):
        value = value.value
    if isinstance(value, Affine):
        return list(value.terms)
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
