"""Look-ups of a traced decoder by a pixel's level (an embedding, one-hot inputs), as a table of that level.

Whatever a decoder writes between its image and an integer, and from there to the rows that it looks up, is run as it is
on images of all levels. It is a table ``[K, P]`` where each pixel of the result follows from that pixel's level.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch.overrides import TorchFunctionMode

from .axes import Axes, AxesError, axes_of, recipe, viewed
from .writer import FILLED, MOVES, name_of, refuse

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
    """tables: ``[K, P]`` and the axes of the nodes that are one and are read by others. skipped: nodes that only lead
    there."""

    tables: dict[fx.Node, tuple[Tensor, Axes]] = field(default_factory=dict)
    skipped: set[fx.Node] = field(default_factory=set)

    @property
    def distinct(self) -> int:
        """The least number of rows that differ in a table."""
        return min((len(table.unique(dim=0)) for table, _ in self.tables.values()), default=0)


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


def find_lookups(
    graph: fx.GraphModule, given: Callable[[Tensor], Tensor], like: Tensor, others: Sequence[Tensor], levels: int
) -> Lookups:
    """All that the graph looks up by the level of a pixel, 0 to ``levels - 1``; levels 0: pixels are continuous.

    given: the decoder's own input from pixels ``k / (levels - 1)`` of the shape and dtype of ``like``. others: its
    other inputs.

    Raises:
        ValueError: a lookup is not a function of one pixel's level; it is named with its module's path.
    """
    nodes = list(graph.graph.nodes)
    of_x, plain = set(nodes[:1]), {n for n in nodes[:1] if _is_integer(n)}  # plain: the levels, whatever their shape
    for node in nodes:
        if name_of(node) not in FILLED and of_x.intersection(node.all_input_nodes):
            of_x.add(node)
        if _is_integer(node) and name_of(node) in (*MOVES, "_to_copy") and plain.issuperset(node.all_input_nodes):
            plain |= {node} if node.all_input_nodes else set()
    integers = [node for node in nodes if node in of_x - plain and _is_integer(node)]
    first = [n for n in nodes if name_of(n) in _LOOKUPS and plain.intersection(n.all_input_nodes)]
    if not integers and not first:
        return Lookups()
    named = next((node for node in nodes if node in of_x and name_of(node) in _LOOKUPS), [*integers, *first][0])
    _check_levels(named, like, levels)
    probes, tables, unfinished = list(_probes(graph, given, like, others, levels)), dict[fx.Node, Any](), set(integers)
    for node in nodes:
        if node in unfinished or not (node in first or unfinished.intersection(node.all_input_nodes)):
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
    if (channels := like.shape[1]) > 1:
        refuse(node, "lookups by the level of a pixel of one channel", f"{_spelled(node)} with {channels} channels")
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


def _probes(
    graph: fx.GraphModule, given: Callable[[Tensor], Tensor], like: Tensor, others: Sequence[Tensor], levels: int
) -> Iterator[_Probe]:
    """Images on which every level is at several places, and some of two levels alone."""
    batch, _, height, width = like.shape
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
        rest = [
            torch.randn(t.shape, generator=generator, device="cpu").to(t) if t.is_floating_point() else t
            for t in others
        ]
        yield _Probe(graph, [given(x), *rest], level.to(like.device), levels)


def _table(node: fx.Node, probes: Sequence[_Probe], levels: int) -> tuple[Tensor, Axes] | None:
    """``[K, P]`` where the node is real numbers that follow from their pixel's level, else None; and its axes."""
    values = [probe.value(node) for probe in probes]
    first, level = values[0], torch.cat([probe.level.flatten() for probe in probes])
    batch, height, width = probes[0].level.shape
    if not isinstance(first, Tensor) or not first.is_floating_point() or first.numel() % (batch * height * width):
        return None
    channels = first.numel() // (batch * height * width)
    length = {"B": batch, "C": channels, "H": height, "W": width}
    for letters in ("BCHW", "BHWC", "HWBC"):
        try:
            axes = viewed(axes_of(letters, [length[letter] for letter in letters]), first.shape)
        except (AxesError, IndexError):
            continue
        read = recipe(axes, first.shape)
        rows = torch.cat([read(value, batch).movedim(1, 3).flatten(0, 2) for value in values])
        table = rows.new_zeros(levels, channels)
        table[level] = rows
        near = _NEAR * torch.finfo(rows.dtype).eps * rows.abs().amax()
        if ((rows - table[level]).abs() <= near).all():
            return table, axes
    return None
