"""The maps that a decoder adds to its features: those of its condition, and constants that differ from pixel to
pixel. A sampler computes them once per image, as channels of the context of its program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ...masks import Offset
from .affine import Affine, Read
from .axes import Recipe

Size = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Map:
    """Channels over pixels of a size, which stand at every so many of the image; None: the same all over it."""

    channels: int
    size: Size | None
    stride: Offset = field(default=(1, 1), kw_only=True)

    @property
    def extent(self) -> Size:
        """Rows and columns of the image up to its last pixel."""
        height, width = self.size or (1, 1)
        return self.stride[0] * (height - 1) + 1, self.stride[1] * (width - 1) + 1


@dataclass(frozen=True, eq=False)
class Given(Map):
    """A tensor that follows from the condition alone."""

    node: fx.Node
    recipe: Recipe


@dataclass(frozen=True, eq=False)
class Fixed(Map):
    """A constant ``[C, h, w]``."""

    data: Tensor


@dataclass(frozen=True, eq=False)
class Sum(Map):
    """An affine value of other maps."""

    of: Affine


@dataclass
class Maps:
    """All maps of a decoder in turn; map n is read as buffer -1 - n."""

    image: Size
    entries: list[Map] = field(default_factory=list)

    def size_of(self, buffer: int) -> Size:
        """The size of a buffer or a map, which is zero outside."""
        return self.image if buffer >= 0 else self.of(buffer).extent

    def of(self, buffer: int) -> Map:
        return self.entries[-1 - buffer]

    def given(self, node: fx.Node, recipe: Recipe, channels: int, size: Size | None, stride: Offset = (1, 1)) -> int:
        """Index of a tensor of the condition, read by a recipe."""
        wanted = (node, recipe, size, stride)
        for n, entry in enumerate(self.entries):
            if isinstance(entry, Given) and (entry.node, entry.recipe, entry.size, entry.stride) == wanted:
                return -1 - n
        return self._add(Given(channels, size, node, recipe, stride=stride))

    def fixed(self, data: Tensor) -> tuple[int, Tensor]:
        """Index of a constant ``[C, h, w]``, and the matrix that makes it of the map's channels, which all differ."""
        rows, which = torch.unique(data, dim=0, return_inverse=True)
        matrix = torch.eye(len(rows)).to(data)[which]
        for n, entry in enumerate(self.entries):
            if isinstance(entry, Fixed) and entry.data.shape == rows.shape and entry.data.equal(rows):
                return -1 - n, matrix
        return self._add(Fixed(len(rows), (data.shape[1], data.shape[2]), rows)), matrix

    def sum(self, value: Affine, size: Size | None) -> tuple[int, Tensor]:
        """Index of a value that reads maps alone, and the matrix that makes it of the map's channels."""
        if size and all(isinstance(self.of(b), Fixed) for b, _ in value.terms):
            data = [entry.data[None] if isinstance(entry, Fixed) else value.bias for entry in self.entries]
            return self.fixed(summed(value, data, size)[0])
        return self._add(Sum(value.channels, size, value)), torch.eye(value.channels).to(value.bias)

    def _add(self, entry: Map) -> int:
        self.entries.append(entry)
        return -len(self.entries)


def spread(x: Tensor, stride: Offset) -> Tensor:
    """``out[..., stride p] = x[..., p]``, zeros between."""
    if stride == (1, 1):
        return x
    height, width = x.shape[-2:]
    out = x.new_zeros(*x.shape[:-2], stride[0] * (height - 1) + 1, stride[1] * (width - 1) + 1)
    out[..., :: stride[0], :: stride[1]] = x
    return out


def shifted(x: Tensor, tap: Offset | None, size: Size) -> Tensor:
    """``out[..., i, j] = x[..., i + dy, j + dx]`` for (i, j) in the size, zero outside of x."""
    if tap is None:
        return x.expand(*x.shape[:2], *size)
    (dy, dx), (h, w) = tap, x.shape[-2:]
    return F.pad(x, (-dx, size[1] + dx - w, -dy, size[0] + dy - h))


def summed(value: Affine, maps: Sequence[Tensor], size: Size | None) -> Tensor:
    """``[B, P, h, w]`` of an affine value of maps ``[B, C, h, w]``; [B, P, 1, 1] without a size."""
    out = value.bias[None, :, None, None].expand(1, -1, *(size or (1, 1)))
    for (buffer, tap), weight in value.terms.items():
        out = out + F.conv2d(shifted(maps[-1 - buffer], tap, size or (1, 1)), weight[:, :, None, None])
    return out


class ConditionNetwork(nn.Module):
    """The part of a traced decoder that does not see x, as the map of all that the rest reads of it.

    batch: of the condition that was traced, all of which is the same here.
    """

    def __init__(self, graph: fx.GraphModule, maps: Maps, reads: Sequence[Read], batch: int) -> None:
        super().__init__()
        self.entries, self.reads, self.image, self.batch = list(maps.entries), list(reads), maps.image, batch
        nodes = list(dict.fromkeys(entry.node for entry in self.entries if isinstance(entry, Given)))
        self.places = [nodes.index(e.node) if isinstance(e, Given) else -1 for e in self.entries]
        self.recipes = [e.recipe if isinstance(e, Given) else None for e in self.entries]
        plain = (Map(e.channels, e.size, stride=e.stride) if isinstance(e, Given) else e for e in self.entries)
        self.entries = list(plain)  # nodes stay
        self.run = fx.GraphModule(graph, _behind(graph.graph, nodes))
        self.is_vector = all(tap is None for _, tap in reads)
        # what is sampled alone is the same at every pixel

    @torch.no_grad()
    def forward(self, *leaves: Tensor) -> Tensor:
        """``[1, D, H, W]`` of the condition's tensors, one row each; ``[1, D]`` where all pixels are the same."""
        given = self.run(None, *(leaf.expand(self.batch, *leaf.shape[1:]) for leaf in leaves))
        maps: list[Tensor] = []
        for entry, place, recipe in zip(self.entries, self.places, self.recipes, strict=True):
            if isinstance(entry, Fixed):
                maps.append(entry.data[None])
            elif isinstance(entry, Sum):
                maps.append(summed(entry.of, maps, entry.size))
            elif recipe is not None:
                value = recipe(given[place], self.batch)[:1]
                maps.append(spread(value.expand(-1, -1, *(entry.size or (1, 1))), entry.stride))
        size = (1, 1) if self.is_vector else self.image
        out = torch.cat([shifted(maps[-1 - b], tap, size) for b, tap in self.reads], 1)
        return out.flatten(1) if self.is_vector else out


def _behind(graph: fx.Graph, nodes: Sequence[fx.Node]) -> fx.Graph:
    """A graph that computes these nodes of another one from the same inputs."""
    needed, left = set(nodes), list(nodes)
    while left:
        new = set(left.pop().all_input_nodes) - needed
        needed |= new
        left += new
    own, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in graph.nodes:
        if node in needed or node.op == "placeholder":
            copies[node] = own.node_copy(node, copies.__getitem__)
    own.output(tuple(copies[node] for node in nodes))
    return own
