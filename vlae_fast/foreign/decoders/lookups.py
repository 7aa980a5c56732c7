"""Look-ups of a traced decoder by a pixel's level (an embedding, one-hot inputs), as a table of that level.

Whatever a decoder writes between its image and an integer, and from there to the rows that it looks up, is run as it is
on images of all levels. It is a table ``[K, P]`` where each pixel of the result follows from that pixel's level.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch.overrides import TorchFunctionMode

from .writer import FILLED, name_of, refuse

MAX_LEVELS = 1024  # a one-hot of K costs 2 K^2 products a pixel
_REPEATS = 4  # a level's pixels on the probes: with other neighbours, at other places
_PAIRED = 4  # probes of two levels each, where neighbours are often equal
_NEAR = 64  # roundings: a product may depend on where in a vector register it is computed
_LOOKUPS = ("embedding", "index", "index_select", "gather", "scatter", "scatter_")


class TracedOneHot(TorchFunctionMode):
    """`F.one_hot` as a lookup in an identity: its own checks look at data, which a trace has none of."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.one_hot:
            return func(*args, **(kwargs or {}))
        return _one_hot(*args, **(kwargs or {}))


def _one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    if num_classes < 0:
        raise ValueError("F.one_hot without num_classes")
    return F.embedding(tensor, torch.eye(num_classes, dtype=torch.long, device=tensor.device))


@dataclass
class Lookups:
    """tables: ``[K, P]`` by the node that is one and is read by others. skipped: the nodes that only lead there."""

    tables: dict[fx.Node, Tensor] = field(default_factory=dict)
    skipped: set[fx.Node] = field(default_factory=set)


class _Probe(fx.Interpreter):
    """A run of the graph, node by node, on one batch of images; level: that of each pixel, ``[B, H, W]``."""

    def __init__(self, graph: fx.GraphModule, inputs: Sequence[Tensor], level: Tensor, levels: int) -> None:
        super().__init__(graph)
        self.extra_traceback = False
        self.level, self.levels = level, levels
        placeholders = [node for node in graph.graph.nodes if node.op == "placeholder"]
        self.env.update(zip(placeholders, inputs, strict=True))

    def value(self, node: fx.Node) -> Any:
        """In the order of the graph, since some write to what others read."""
        needed = _behind([node], stop=self.env.keys()) - self.env.keys()
        for n in self.graph.nodes:
            if n in needed:
                try:
                    self._check_rows(n)
                    self.env[n] = self.run_node(n)
                except (IndexError, RuntimeError) as error:
                    got = f"{_spelled(n)} ({str(error).splitlines()[0]})"
                    refuse(n, f"lookups that have a row for each of {self.levels:,} levels", got)
        return self.env[node]

    def _check_rows(self, node: fx.Node) -> None:
        """IndexError before a GPU is asked for a row that does not exist, after which it would do nothing more."""
        if name_of(node) not in _LOOKUPS:
            return
        args: tuple[Any, ...] = fx.node.map_arg(node.args, self.env.__getitem__)
        of, at = args[:2]
        if name_of(node) == "embedding":
            rows = [(len(of), at)]
        elif isinstance(at, int):
            rows = [(of.shape[at], args[2])]
        else:
            rows = [(n, i) for n, i in zip(of.shape, at, strict=False) if i is not None and i.dtype != torch.bool]
        for length, index in rows:
            least, most = int(index.min()), int(index.max())
            if most >= length or least < (-length if name_of(node) == "index" else 0):
                raise IndexError(f"row {most if most >= length else least} of {length}")


def find_lookups(graph: fx.GraphModule, inputs: Sequence[Tensor], levels: int) -> Lookups:
    """All that the graph looks up by the level of a pixel, 0 to ``levels - 1``; levels 0: pixels are continuous.

    Raises:
        ValueError: a lookup is not a function of one pixel's level; it is named with its module's path.
    """
    nodes = list(graph.graph.nodes)
    of_x = set(nodes[:1])
    for node in nodes:
        if name_of(node) not in FILLED and of_x.intersection(node.all_input_nodes):
            of_x.add(node)
    integers = [node for node in nodes if node in of_x and _is_integer(node)]
    if not integers:
        return Lookups()
    named = next((node for node in nodes if node in of_x and name_of(node) in _LOOKUPS), integers[0])
    _check_levels(named, inputs[0], levels)
    probes, tables, unfinished = list(_probes(graph, inputs, levels)), dict[fx.Node, Tensor](), set(integers)
    for node in nodes:
        if node in unfinished or not unfinished.intersection(node.all_input_nodes):
            continue
        if node.op == "output":
            rule = "lookups whose rows [B, P, H, W] follow from the level of their own pixel alone"
            refuse(named, rule, _spelled(named))
        table = _table(node, probes, levels)
        if table is None:
            unfinished.add(node)
        else:
            tables[node] = table
    needed = _behind(nodes[-1:], stop=tables.keys())
    led = _behind([*integers, *tables]) & of_x - needed
    return Lookups({n: t for n, t in tables.items() if n in needed}, {n for n in led if n.op != "placeholder"})


def _behind(nodes: Sequence[fx.Node], stop: Collection[fx.Node] = ()) -> set[fx.Node]:
    """The nodes and all that they are computed from; not what is behind those to stop at."""
    found, left = set(nodes), list(nodes)
    while left:
        new = {n for n in left.pop().all_input_nodes if n not in found}
        found |= new
        left += new.difference(stop)
    return found


def _check_levels(node: fx.Node, like: Tensor, levels: int) -> None:
    if like.shape[1] > 1:
        refuse(
            node, "lookups by the level of a pixel of one channel", f"{_spelled(node)} with {like.shape[1]} channels"
        )
    if not levels:
        refuse(node, "lookups by the level of a pixel", f"{_spelled(node)} with a likelihood of continuous pixels")
    # 2 (K - 1) x is within 12 (K - 1) roundings of twice its level (4 of x that is known): less than 1 / 2 is asked for
    most = min(MAX_LEVELS, int(1 / (32 * torch.finfo(like.dtype).eps)))
    if levels > most:
        refuse(node, f"lookups by one of at most {most:,} levels in {like.dtype}", f"{_spelled(node)} with {levels:,}")


def _spelled(node: fx.Node) -> str:
    """The operation as a decoder has it: `F.one_hot` is traced as the embedding of integers."""
    return "one_hot" if name_of(node) == "embedding" and _is_integer(node) else name_of(node)


def _is_integer(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and not value.is_floating_point()


def _probes(graph: fx.GraphModule, inputs: Sequence[Tensor], levels: int) -> Iterator[_Probe]:
    """Images on which every level is at several places, and some of two levels alone."""
    like, (batch, _, height, width) = inputs[0], inputs[0].shape
    generator = torch.Generator().manual_seed(0)
    pixels = batch * height * width
    count = -(-_REPEATS * levels // pixels)
    # the CPU is named: a default device may be set
    order = torch.randperm(count * pixels, generator=generator, device="cpu") % levels
    pairs = torch.randint(levels, (_PAIRED, 2), generator=generator, device="cpu")
    sides = torch.randint(2, (_PAIRED, pixels), generator=generator, device="cpu")
    for level in (*order.view(count, pixels), *pairs.gather(1, sides)):
        level = level.view(batch, height, width)
        x = (level.double() / (levels - 1))[:, None].to(like)  # as pixels are drawn
        z = [torch.randn(t.shape, generator=generator, device="cpu").to(t) for t in inputs[1:]]
        yield _Probe(graph, [x, *z], level.to(like.device), levels)


def _table(node: fx.Node, probes: Sequence[_Probe], levels: int) -> Tensor | None:
    """``[K, P]`` where the node is ``[B, P, H, W]`` of real numbers that follow from their pixel's level, else None."""
    values = [probe.value(node) for probe in probes]
    first, level = values[0], torch.cat([probe.level.flatten() for probe in probes])
    batch, height, width = probes[0].level.shape
    if not isinstance(first, Tensor) or first.dim() != 4 or not first.is_floating_point():
        return None
    if (first.shape[0], *first.shape[2:]) != (batch, height, width):
        return None
    rows = torch.cat([value.movedim(1, 3).flatten(0, 2) for value in values])
    table = rows.new_zeros(levels, rows.shape[1])
    table[level] = rows
    near = _NEAR * torch.finfo(rows.dtype).eps * rows.abs().amax()
    return table if ((rows - table[level]).abs() <= near).all() else None
