"""The masked network of anybody's flow, found by what its two directions compute, as arguments of `made_inverse`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ... import reference
from ...ops.made_inverse import ACTIVATIONS
from ..probe import is_mask, without_hooks
from ..swap import Swap
from ..walk import named_parameters_of, part_at, parts_of
from .directions import directions_of, first_of, second_of
from .structure import NotCoveredError, structure_of
from .tail import tail_of
from .tape import Product, Tape


class Node(NamedTuple):
    """A product in the network: which parameters it takes, which weights count, what it is applied to.

    parent: the place of the product whose activation it is given, -1 for x. live: ``[O, I]``.
    """

    weight: str
    transposed: bool
    bias: str | None
    live: Tensor
    parent: int
    depth: int
    inputs: Tensor | None  # where x is permuted: the dimension that each input is


class Outputs(NamedTuple):
    """The form of what the inverse of a flow returns: x alone, or x and a log-determinant.

    kind: of the container, None for x alone. keys: of x and of the log-determinant in it. sign: by which the second
    value of the fast direction at x is multiplied; None: the log-determinant ``[B]`` is that of the op, times ``own``.
    """

    kind: type | None = None
    keys: tuple[Any, Any] = (0, 1)
    sign: int | None = None
    own: int = 1

    def of(self, x: Tensor, log_det: Tensor, second: Tensor | None) -> Any:
        """As the flow returns it. log_det: that of x to u. second: the second value of the fast direction at x."""
        if self.kind is None:
            return x
        pair = (x, self.own * log_det if self.sign is None or second is None else self.sign * second)
        kind: Any = self.kind
        if issubclass(kind, dict):
            return kind(**dict(zip(self.keys, pair, strict=True)))
        return kind(*pair) if hasattr(kind, "_fields") else kind(pair)


class ProbedNetwork:
    """How the network of somebody's flow becomes layers and degrees; as `networks.Network`.

    It refers to no tensor of the flow's: parameters may be trained, loaded and moved.
    """

    def __init__(self, flow: nn.Module) -> None:
        twin = clean_copy(flow)
        _shrink(twin)
        self.dim, self.fast, self.slow = directions_of(flow, twin)
        x = torch.randn(4, self.dim, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
        with Tape() as tape:
            first_of(self.fast.of(twin, x.clone()))
        self.nodes, activation = _nodes(tape.products, twin, x)
        self.sigmoid = activation == "sigmoid"  # (1 + tanh(v / 2)) / 2
        self.activation = "tanh" if self.sigmoid else activation
        self.heads = [i for i in range(len(self.nodes)) if all(node.parent != i for node in self.nodes)]
        deepest = max(node.depth for node in self.nodes)
        if any(self.nodes[i].depth != deepest for i in self.heads):
            raise NotCoveredError("its network must be a chain of layers, without connections that skip some")
        self.tail = tail_of(self._u_of(twin), self.dim, sum(len(self.nodes[i].live) for i in self.heads), x)
        self.scale = self.tail.scale
        self.levels = [[i for i, n in enumerate(self.nodes) if n.depth == d] for d in range(deepest + 1)]
        self.structure = structure_of(self._masks())
        self.outputs = self._outputs(twin)

    def _u_of(self, twin: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
        """The fast direction, where the network's outputs are given."""

        def u_of(x: Tensor, p: Tensor) -> Tensor:
            with self._given(p):
                return first_of(self.fast.of(twin, x))

        return u_of

    def _given(self, p: Tensor) -> Tape:
        """Computes no product: those of the heads are p, all others 0."""
        parts = dict(zip(self.heads, p.split([len(self.nodes[i].live) for i in self.heads], 1), strict=True))
        count = len(self.nodes)

        def instead(place: int) -> Tensor:
            node = place % count
            return (parts[node] if node in parts else p.new_zeros(len(p), len(self.nodes[node].live))).clone()

        return Tape(instead=instead)

    def _outputs(self, twin: nn.Module) -> Outputs:
        """The result of the slow direction, checked: it undoes the fast one where the network's outputs are given."""
        generator = torch.Generator().manual_seed(11)
        count = sum(len(self.nodes[i].live) for i in self.heads)
        x = torch.randn(3, self.dim, generator=generator, dtype=torch.float64)
        p = 0.5 * torch.randn(3, count, generator=generator, dtype=torch.float64)
        with self._given(p):
            there = self.fast.of(twin, x.clone())
        with self._given(p):
            out = self.slow.of(twin, first_of(there).clone())
        if not torch.allclose(first_of(out), x, rtol=1e-6, atol=1e-8):
            raise NotCoveredError(f"{self.slow} does not undo {self.fast}, the network's outputs given")
        return _kind_of(out, second_of(there), self.tail.log_slope(p).sum(1))

    def _masks(self) -> list[Tensor]:
        masks = [self._assembled(level, [self.nodes[i].live.double() for i in level]) for level in self.levels]
        return [*masks[:-1], masks[-1][self.tail.columns]]

    def _assembled(self, level: list[int], blocks: Sequence[Tensor]) -> Tensor:
        """The weights of products of one depth as one, of all units of the depth before."""
        if self.nodes[level[0]].depth == 0:
            return torch.cat([_in_order(block, self.nodes[i].inputs) for i, block in zip(level, blocks, strict=True)])
        before = self.levels[self.nodes[level[0]].depth - 1]
        if len(level) == len(before) == 1:
            return blocks[0]
        rows = []
        for i, block in zip(level, blocks, strict=True):
            zeros = (block.new_zeros(len(block), len(self.nodes[j].live)) for j in before)
            rows.append(
                torch.cat(
                    [block if j == self.nodes[i].parent else zero for j, zero in zip(before, zeros, strict=True)], 1
                )
            )
        return torch.cat(rows)

    def arguments(self, flow: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
        """Weights and biases of `made_inverse`, of the parameters as they are now."""
        weights, biases = list[Tensor](), list[Tensor]()
        for level in self.levels:
            found = [self._layer(flow, self.nodes[i]) for i in level]
            weight, bias = (
                self._assembled(level, [weight for weight, _ in found]),
                torch.cat([bias for _, bias in found]),
            )
            if self.sigmoid and weights:
                weight, bias = weight / 2, bias + weight.sum(1) / 2
            if self.sigmoid and len(weights) + 1 < len(self.levels):
                weight, bias = weight / 2, bias / 2
            weights.append(weight)
            biases.append(bias)
        gains, offsets = (t.to(weights[-1]) for t in (self.tail.gains, self.tail.offsets))
        columns = self.tail.columns.to(weights[-1].device)
        weights[-1] = weights[-1][columns] * gains[:, None]
        biases[-1] = biases[-1][columns] * gains + offsets
        return weights, biases

    def _layer(self, flow: nn.Module, node: Node) -> tuple[Tensor, Tensor]:
        weight = parameter_at(flow, node.weight)
        weight = weight.t() if node.transposed else weight
        weight = torch.where(node.live.to(weight.device), weight, 0)
        return weight, weight.new_zeros(len(weight)) if node.bias is None else parameter_at(flow, node.bias).reshape(-1)

    def context_dim(self, flow: Any) -> int:
        return 0

    def cond(self, flow: Any, context: Tensor) -> Tensor:
        raise NotImplementedError


def _nodes(products: Sequence[Product], twin: nn.Module, x: Tensor) -> tuple[list[Node], str]:
    """The products of a pass as a network, and its activation. Raises NotCoveredError."""
    if not products:
        raise NotCoveredError("its pass computes no product with a weight that can be seen")
    parameters = [(name, p) for name, p in named_parameters_of(twin) if p.is_floating_point()]
    nodes: list[Node] = []
    used: set[str] = set()
    for product in products:
        inputs = _columns_of(product.x, x)
        parent, name = (-1, None) if inputs is not None else _parent(product.x, products[: len(nodes)])
        used |= {name} if name else set()
        weight, transposed = _weight_of(product, parameters)
        bias = None if product.bias is None else _bias_of(product.bias, parameters)
        depth = 0 if parent < 0 else nodes[parent].depth + 1
        nodes.append(Node(weight, transposed, bias, product.weight != 0, parent, depth, inputs))
    if len(used) > 1:
        raise NotCoveredError(f"its activations must be the same, got {', '.join(sorted(used))}")
    return nodes, next(iter(used), "relu")


def _columns_of(given: Tensor, x: Tensor) -> Tensor | None:
    """The dimension of x that each column is; None where they are no permutation of x."""
    if given.shape != x.shape:
        return None
    same = (given[:, :, None] == x[:, None]).all(0)  # [D of given, D of x]
    return same.long().argmax(1) if (same.sum(1) == 1).all() and (same.sum(0) == 1).all() else None


def _parent(given: Tensor, products: Sequence[Product]) -> tuple[int, str]:
    """The product whose activation a layer is given, and the activation's name."""
    for i, product in reversed(list(enumerate(products))):
        if product.out.shape == given.shape:
            for name in (*ACTIVATIONS, "sigmoid"):
                own = product.out.sigmoid() if name == "sigmoid" else reference.activate(product.out, name)
                if torch.allclose(own, given, rtol=1e-9, atol=1e-12):
                    return i, name
    known = ", ".join((*ACTIVATIONS, "sigmoid"))
    raise NotCoveredError(f"a layer of its network is given something else than x or {known} of another layer")


def _weight_of(product: Product, parameters: Sequence[tuple[str, Tensor]]) -> tuple[str, bool]:
    live = product.weight != 0
    for name, parameter in parameters:
        for transposed in (False, True):
            if parameter.dim() == 2:
                weight = parameter.detach().t() if transposed else parameter.detach()
                if weight.shape == live.shape and torch.where(live, weight, 0).equal(product.weight):
                    return name, transposed
    raise NotCoveredError("a weight of its network is no parameter times a mask")


def _bias_of(bias: Tensor, parameters: Sequence[tuple[str, Tensor]]) -> str:
    for name, parameter in parameters:
        if parameter is bias or (parameter.shape == bias.shape and parameter.equal(bias)):
            return name
    raise NotCoveredError("a bias of its network is no parameter")


def _in_order(weight: Tensor, inputs: Tensor | None) -> Tensor:
    """The columns of a weight by the dimensions of x."""
    assert inputs is not None
    order = torch.arange(len(inputs))
    return weight if inputs.equal(order) else weight[:, inputs.argsort().to(weight.device)]


def _kind_of(out: Any, second: Tensor | None, log_det: Tensor) -> Outputs:
    """The value beside x: the second value of the fast direction, or the log-determinant ``[B]``."""
    if isinstance(out, Tensor):
        return Outputs()
    keys = tuple(out) if isinstance(out, dict) else tuple(range(len(out)))
    if len(keys) != 2:
        raise NotCoveredError(f"its inverse returns {len(keys)} values, not x or x and a log-determinant")
    found = out[keys[1]]
    for known, by_fast in ((second, True), (log_det, False)):
        for sign in (1, -1):
            if not isinstance(found, Tensor) or known is None or known.shape != found.shape:
                continue
            # a sum that somebody begins with torch.zeros(B) is of the default dtype
            if torch.allclose(found.double(), sign * known.double(), rtol=1e-5, atol=1e-6):
                return Outputs(type(out), (keys[0], keys[1]), sign if by_fast else None, sign)
    raise NotCoveredError("the second value that its inverse returns is no log-determinant of its forward direction")


def parameter_at(flow: nn.Module, path: str) -> Tensor:
    at, _, name = path.rpartition(".")
    parameter: Tensor = vars(part_at(flow, at))["_parameters"][name]
    return parameter


def clean_copy(flow: nn.Module) -> nn.Module:
    """A copy in float64 in evaluation mode, without hooks and without anything of ours."""
    twin = without_hooks(flow)
    for part in parts_of(twin):
        if isinstance(swap := vars(part).get("_vlae_fast"), Swap):
            swap.remove(part)
    return twin.double().cpu().eval()


@torch.no_grad()
def _shrink(twin: nn.Module) -> None:
    """Random weights, none of them 0, so small that a pass neither saturates nor overflows."""
    generator = torch.Generator().manual_seed(3)
    for name, parameter in named_parameters_of(twin):
        if parameter.is_floating_point() and not is_mask(name, parameter):
            size = 0.6 / max(1, parameter.shape[-1]) ** 0.5 if parameter.dim() > 1 else 0.1
            signs = torch.randint(2, parameter.shape, generator=generator) * 2 - 1
            parameter.copy_(
                size * signs * (0.5 + torch.rand(parameter.shape, generator=generator, dtype=torch.float64))
            )
