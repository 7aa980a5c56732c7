"""A program from somebody else's decoder, by a trace of its forward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from ...sampling.program import Program
from .affine import Affine
from .lookups import Lookups, TracedOneHot, find_lookups
from .operations import BATCH, Operations


class _Root:
    """A decoder as a function, by whose ``_orig_mod`` the tracer knows the module that each operation comes from."""

    def __init__(self, decoder: nn.Module) -> None:
        self._orig_mod = decoder

    def __call__(self, *inputs: Tensor) -> Tensor:
        with TracedOneHot():
            return self._orig_mod(*inputs)


class CodeNetwork(nn.Module):
    """The part of a traced decoder that sees z alone, as a map of all that the rest reads of it."""

    def __init__(self, graph: fx.GraphModule, of_z: set[fx.Node], read: list[fx.Node], image: tuple[int, int]) -> None:
        super().__init__()
        needed, left = set(of_z), list(of_z)
        while left:
            new = set(left.pop().all_input_nodes) - needed
            needed |= new
            left += new
        own, copies = fx.Graph(), dict[fx.Node, fx.Node]()
        for node in graph.graph.nodes:
            if node in needed or node.op == "placeholder":
                copies[node] = own.node_copy(node, copies.__getitem__)
        own.output(tuple(copies[node] for node in read))
        self.run, self.image = fx.GraphModule(graph, own), image

    @torch.no_grad()
    def forward(self, z: Tensor) -> Tensor:
        """``[1, D', H, W]`` of z ``[1, D]``: the batch that was traced is longer, and all of it the same."""
        maps = self.run(None, z.expand(BATCH, -1))
        return torch.cat([m[:1].expand(-1, -1, *self.image) for m in maps], 1)


@torch.no_grad()
def write_program(decoder: nn.Module, program: Program, inputs: Sequence[Tensor], levels: int) -> CodeNetwork | None:
    """Appends the stages of ``decoder(*inputs)``, in evaluation mode; inputs: x ``[2, C, H, W]``, z ``[2, D]`` or none.

    levels: of a pixel, 0 where it is continuous.

    Returns:
        None where z enters through linear maps alone, else the network whose output the stages see in its place.

    Raises:
        ValueError: an operation has no place in a program; it is named with its module's path.
    """
    try:
        graph = make_fx(_Root(decoder), record_module_stack=True)(*inputs)
    except Exception as error:
        first, *_ = f"{type(error).__name__}: {error}".splitlines()
        raise ValueError(f"fast_sampler: decoder must be traceable by torch.fx, got {first}") from error
    image = (inputs[0].shape[2], inputs[0].shape[3])
    of_z, read = _parts_of_z(graph.graph)
    lookups = find_lookups(graph, inputs, levels)
    try:
        _write(graph, program, inputs, image, {}, lookups)
    except ValueError:
        shapes = [tuple(node.meta["val"].shape) for node in read]
        if not read or any(len(shape) != 4 or shape[2:] not in ((1, 1), image) for shape in shapes):
            raise
        program.stages.clear()
        program.weights.clear()
        _write(graph, program, inputs, image, _selected(of_z, read, inputs[0], image), lookups)
        return CodeNetwork(graph, of_z, read, image)
    return None


def _write(
    graph: fx.GraphModule,
    program: Program,
    inputs: Sequence[Tensor],
    image: tuple[int, int],
    given: dict[Any, Any],
    lookups: Lookups,
) -> None:
    like = inputs[0].new_zeros(())
    eyes = [torch.eye(t.shape[1]).to(like) for t in inputs]
    values = [Affine({(0, (0, 0)): eyes[0]}, like.new_zeros(len(eyes[0])), None, image)]
    values += [Affine({}, like.new_zeros(len(eye)), eye, ()) for eye in eyes[1:]]
    given = given | dict.fromkeys(lookups.skipped)
    Operations(graph, program, image, like, given, lookups.tables).run(*values)


def _selected(of_z: set[fx.Node], read: list[fx.Node], like: Tensor, image: tuple[int, int]) -> dict[Any, Any]:
    """The nodes of z that are read, as channels of one context; the other nodes are None."""
    counts = [node.meta["val"].shape[1] for node in read]
    given: dict[Any, Any] = dict.fromkeys(of_z)
    for node, eye in zip(read, torch.eye(sum(counts)).to(like).split(counts), strict=True):
        size = tuple(node.meta["val"].shape[2:])
        given[node] = Affine({}, like.new_zeros(len(eye)), eye, image if size == image else (1, 1))
    return given


def _parts_of_z(graph: fx.Graph) -> tuple[set[fx.Node], list[fx.Node]]:
    """The nodes that depend on z and not on x, and those of them that are read by one that does."""
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    of_x, of_z = set(placeholders[:1]), set(placeholders[1:])
    for node in graph.nodes:
        for kind in (of_x, of_z):
            if kind.intersection(node.all_input_nodes):
                kind.add(node)
    of_z -= of_x
    return of_z, [node for node in graph.nodes if node in of_z and of_x.intersection(node.users)]
