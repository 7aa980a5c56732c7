"""Other people's MADEs of binary data: a module ``x [B, D] -> logits [B, D]``, traced into layers and sampled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_leaves

from ... import reference
from ...ops.made_inverse import ACTIVATIONS
from ...reference.arguments import Layers
from ...sampling.made import MADESampler, MaskedNetwork
from ..flows.structure import NotCoveredError, structure_of
from .operations import BATCH
from .trace import Root, as_it_is
from .writer import SAME, name_of, refuse

_CHECKED = 16  # vectors on which the layers are compared with the module
_NEAR = 1e-4  # of the largest logit: two orders of the same sums


@dataclass(frozen=True)
class Linear:
    """``weight h + bias`` of the units h of layer ``of`` (0: the inputs)."""

    weight: Tensor  # [P, I]
    bias: Tensor  # [P]
    of: int


class _Tracer(fx.Interpreter):
    """Runs a graph of ATen operations with `Linear` values in place of x; each activation ends a layer."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.extra_traceback = False
        self.layers: list[Linear] = []
        self.activations: set[str] = set()
        self.ends_in_sigmoid = False
        self.node: fx.Node = next(iter(graph.graph.nodes))

    def run_node(self, n: fx.Node) -> Any:
        self.node = n
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        name = name_of(n)
        if n.op == "output":
            return args[0]
        if n.op == "placeholder" or not any(isinstance(a, Linear) for a in tree_leaves((args, kwargs))):
            return super().run_node(n)
        if name in SAME:
            return args[0]
        if (name := name.removesuffix("_")) in ACTIVATIONS:
            if any(option != 1 for option in args[1:]):  # alpha and scales of an ELU
                self.refuse(f"{name} of {args[1:]}")
            return self._activate(args[0], name)
        handler: Callable | None = getattr(self, f"_op_{name}", None)
        if handler is None:
            self.refuse(name)
        try:
            return handler(*args, **kwargs)
        except (TypeError, AttributeError, RuntimeError) as error:
            self.refuse(f"{name} ({str(error).splitlines()[0]})")

    def refuse(self, got: str) -> NoReturn:
        names = ", ".join((*ACTIVATIONS, "leaky_relu", "prelu"))
        refuse(self.node, f"linear layers and activations ({names}) in turn, where x is a vector", got)

    def _activate(self, value: Linear, name: str) -> Linear:
        if value.of != len(self.layers):
            self.refuse(f"{name} of a layer that is not the last")
        self.layers.append(value)
        self.activations.add(name)
        eye = torch.eye(len(value.bias), dtype=value.bias.dtype, device=value.bias.device)
        return Linear(eye, torch.zeros_like(value.bias), len(self.layers))

    def _op_leaky_relu(self, value: Linear, slope: float = 0.01) -> Linear:
        return self._signed(value, torch.full_like(value.bias, slope))

    def _op_prelu(self, value: Linear, slope: Tensor) -> Linear:
        return self._signed(value, slope.flatten().expand_as(value.bias))

    _op__prelu_kernel = _op_prelu

    def _signed(self, value: Linear, slope: Tensor) -> Linear:
        """relu(v) - slope relu(-v)."""
        both = self._activate(
            Linear(torch.cat([value.weight, -value.weight]), torch.cat([value.bias, -value.bias]), value.of), "relu"
        )
        weight = torch.cat([torch.eye(len(slope)).to(slope), torch.diag(-slope)], 1)
        return Linear(weight, torch.zeros_like(slope), both.of)

    def _op_t(self, value: Linear) -> NoReturn:
        self.refuse("a transposed layer")

    def _op_mm(self, value: Linear, matrix: Tensor) -> Linear:
        return Linear(matrix.T @ value.weight, matrix.T @ value.bias, value.of)

    def _op_addmm(self, bias: Tensor, value: Linear, matrix: Tensor) -> Linear:
        out = self._op_mm(value, matrix)
        return Linear(out.weight, out.bias + bias, out.of)

    def _op_linear(self, value: Linear, weight: Tensor, bias: Tensor | None = None) -> Linear:
        return self._op_addmm(torch.zeros(()).to(weight) if bias is None else bias, value, weight.T)

    def _op_add(self, a: Any, b: Any, alpha: float = 1) -> Linear:
        if isinstance(a, Linear) and isinstance(b, Linear):
            if a.of != b.of:
                self.refuse("a sum over layers (a skip connection)")
            return Linear(a.weight + alpha * b.weight, a.bias + alpha * b.bias, a.of)
        value, constant, sign = (a, alpha * b, 1) if isinstance(a, Linear) else (b, a, alpha)
        return Linear(sign * value.weight, sign * value.bias + constant, value.of)

    def _op_sub(self, a: Any, b: Any, alpha: float = 1) -> Linear:
        return self._op_add(a, b, -alpha) if isinstance(b, Linear) else self._op_add(a, -1 * b, alpha)

    def _op_rsub(self, a: Any, b: Any, alpha: float = 1) -> Linear:
        return self._op_sub(b, a, alpha)

    def _op_mul(self, a: Any, b: Any) -> Linear:
        value, by = (a, b) if isinstance(a, Linear) else (b, a)
        by = torch.as_tensor(by).to(value.bias).expand_as(value.bias)
        return Linear(by[:, None] * value.weight, by * value.bias, value.of)

    def _op_div(self, value: Linear, by: Any) -> Linear:
        return self._op_mul(value, 1 / by)

    def _op_neg(self, value: Linear) -> Linear:
        return self._op_mul(value, -1.0)

    def _op_view(self, value: Linear, shape: Any) -> Linear:
        if self.node.meta["val"].shape[0] != BATCH:
            self.refuse(f"a view to {list(shape)}")
        return value

    _op_reshape = _op__unsafe_view = _op_view

    def _op_slice(self, value: Linear, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Linear:
        if dim == 0 and len(range(*slice(start, end, step).indices(BATCH))) == BATCH:
            return value
        if dim != 1 or self.node.meta["val"].dim() != 2:
            self.refuse(f"a slice of dimension {dim}")
        part = slice(start, end, step)
        return Linear(value.weight[part], value.bias[part], value.of)

    def _op_cat(self, parts: Sequence[Any], dim: int = 0) -> Linear:
        values = [part for part in parts if isinstance(part, Linear)]
        if dim not in (1, 1 - self.node.meta["val"].dim()) or len({value.of for value in values}) > 1:
            self.refuse("a concatenation of the batch, or of two layers")
        first = values[0]
        rows = [part if isinstance(part, Linear) else self._fixed(part, first) for part in parts]
        return Linear(torch.cat([r.weight for r in rows]), torch.cat([r.bias for r in rows]), first.of)

    _op_stack = _op_cat

    def _fixed(self, part: Tensor, like: Linear) -> Linear:
        """A constant ``[B, P]`` beside a layer."""
        if not part.eq(part[:1]).all():
            self.refuse("a constant that differs from row to row")
        bias = part[0].flatten().to(like.bias)
        return Linear(like.weight.new_zeros(len(bias), like.weight.shape[1]), bias, like.of)

    def _op_sigmoid(self, value: Linear) -> Linear:
        """The probabilities of a network's end, whose logits are drawn from."""
        if not _is_last(self.node):
            self.refuse("sigmoid before the end")
        self.ends_in_sigmoid = True
        return value


def _is_last(node: fx.Node) -> bool:
    """True where an operation's result is the output, but for views of it."""
    views = ("view", "_unsafe_view", "reshape", *SAME)
    return all(user.op == "output" or (name_of(user) in views and _is_last(user)) for user in node.users)


class ForeignMADESampler(MADESampler):
    """`MADESampler` of a module ``x [B, D] -> logits [B, D]`` that somebody else wrote, by a trace of its forward.

    Args:
        made: the module, in evaluation mode while it is traced. dim: D. backend, pixels: as in `MADESampler`; the
            module is given these for 0 and 1.

    Raises:
        ValueError: it is no chain of masked linear layers, or an output sees its own input or a later one.
    """

    caller = "fast_sampler"

    def __init__(
        self, made: nn.Module, dim: int, backend: str = "auto", *, pixels: tuple[float, float] = (0.0, 1.0)
    ) -> None:
        self._set_up(lambda: trace_made(made, dim, self.pixels), backend, pixels)


@torch.no_grad()
def trace_made(made: nn.Module, dim: int, pixels: tuple[float, float] = (0.0, 1.0)) -> MaskedNetwork:
    """The layers of ``made(x [B, D]) -> [B, D]``: logits, or probabilities where it ends in a sigmoid.

    They are compared with the module on x of the two numbers `pixels`.

    Raises:
        ValueError: it is no chain of masked linear layers, or not autoregressive.
    """
    with as_it_is(made):
        return _traced(made, dim, pixels)


def _traced(made: nn.Module, dim: int, pixels: tuple[float, float]) -> MaskedNetwork:
    like = next((p for p in made.parameters() if p.is_floating_point()), torch.zeros(()))
    try:
        root = Root(made, lambda module, x, _: module(x))
        graph = make_fx(root, record_module_stack=True)(like.new_zeros(BATCH, dim))
    except Exception as error:
        first, *_ = f"{type(error).__name__}: {error}".splitlines()
        rule = f"decoder must take x [B, {dim}] and be traceable by torch.fx"
        raise ValueError(f"fast_sampler: {rule}, got {first}") from error
    tracer = _Tracer(graph)
    out = tracer.run(Linear(torch.eye(dim).to(like), like.new_zeros(dim), 0))
    if not isinstance(out, Linear) or out.of != len(tracer.layers) or len(out.bias) != dim:
        got = f"{len(out.bias)} numbers" if isinstance(out, Linear) else type(out).__name__
        raise ValueError(f"fast_sampler: a decoder of vectors must give [B, {dim}], a logit a dimension, got {got}")
    layers = [*tracer.layers, out]
    if len(tracer.activations) > 1:
        names = ", ".join(sorted(tracer.activations))
        raise ValueError(f"fast_sampler: a decoder of vectors must have one kind of activation, got {names}")
    try:
        degrees = structure_of([layer.weight for layer in layers]).degrees
    except NotCoveredError as error:
        raise ValueError(
            f"fast_sampler: decoder must give each dimension a logit by those before it, got: {error}"
        ) from None
    activation = next(iter(tracer.activations), "relu")
    weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers]
    network = MaskedNetwork(weights, biases, [d.to(like.device) for d in degrees], activation)
    _compare(made, network, dim, pixels, tracer.ends_in_sigmoid)
    return network


def _compare(made: nn.Module, network: MaskedNetwork, dim: int, pixels: tuple[float, float], sigmoid: bool) -> None:
    """Raises ValueError where the layers give other logits than the module."""
    like, generator = network.weights[0], torch.Generator().manual_seed(0)
    low, high = pixels
    x = low + (high - low) * torch.randint(2, (_CHECKED, dim), generator=generator, device="cpu").to(like)
    logits, _, _ = reference.made(x, Layers(network.weights, network.biases, network.degrees), network.activation)
    expected = made(x)
    got = torch.sigmoid(logits) if sigmoid else logits
    error = (got - expected).abs().max().item()
    if not error <= _NEAR * max(1.0, expected.abs().max().item()):
        rule = "a function of x alone, the same in every call"
        raise ValueError(f"fast_sampler: decoder must be {rule}, got outputs that differ from its trace by {error:.3g}")


def sampler_of_vectors(
    made: nn.Module, dim: int, pixels: Any, others: Mapping[str, Any], backend: str
) -> ForeignMADESampler:
    """The sampler of `fast_sampler` for vectors; others: its arguments that only images have, by name."""
    for name, value in others.items():
        if value is not None:
            raise ValueError(f"fast_sampler: {name} must not be given for vectors ({dim},), got {value!r}")
    if isinstance(pixels, str):
        raise ValueError(f"fast_sampler: pixels must be (low, high) for vectors ({dim},), got {pixels!r}")
    return ForeignMADESampler(made, dim, backend, pixels=pixels or (0.0, 1.0))
