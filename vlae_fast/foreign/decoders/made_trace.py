"""A trace of somebody else's MADE: its operations as sums over units, and what it looks up of each level as a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map

from ...masks import linear_mask
from ...ops.made_inverse import ACTIVATIONS
from .made_inputs import ROWS, Form, Probes
from .made_units import Ended, Units, joined, total
from .trace import Root
from .writer import MOVES, SAME, is_in_place, name_of, refuse, shares_memory

_RESHAPED = ("view", "_unsafe_view", "reshape")
_ORDERED = (*_RESHAPED, "flatten", "unflatten", "squeeze", "unsqueeze", "alias", "detach")  # no number moves
_MOVED = {*MOVES, "cat", "stack", "flip", "repeat", "roll", "narrow", "index_select", "constant_pad_nd"}


@dataclass(frozen=True, eq=False)
class Encoded:
    """A result that follows from each dimension's level alone, for all levels of the probes: batches of ROWS rows."""

    chunks: tuple[Any, ...]


class Branches(TorchFunctionMode):
    """Lets a forward branch on what it computes: the trace is of the branch that the probes take, and is compared."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.Tensor.__bool__, torch.Tensor.item):
            with _disable_current_modes():
                return func(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def traced(
    run: Callable[[nn.Module, Tensor, Sequence[Tensor]], Any], made: nn.Module, x: Tensor
) -> tuple[fx.GraphModule, bool]:
    """The graph of ``run(made, x, ())``, and whether it turns x into real numbers without looking anything up by it."""
    root = Root(made, run)

    def forward(x: Tensor) -> Any:
        with Branches():
            return root(x)

    forward._orig_mod = made  # type: ignore[attr-defined]  # by which the tracer knows the modules
    graph = make_fx(forward, record_module_stack=True)(x)
    nodes = list(graph.graph.nodes)
    of_x = set(nodes[:1])
    for node in nodes:
        if of_x.intersection(node.all_input_nodes):
            of_x.add(node)
    values = [n.meta.get("val") for n in of_x]
    looks_up = any(isinstance(v, Tensor) and not v.is_floating_point() for v in values)
    return graph, root.converts and not looks_up


class Tracer(fx.Interpreter):
    """Runs a graph of ATen operations on `Encoded` and `Units` in place of x; each activation ends a layer.

    layers: the pre-activations of the hidden layers. inputs: tables ``[K, E]`` and the dimensions ``[E]`` of layer 0.
    """

    def __init__(self, graph: fx.GraphModule, form: Form, probes: Probes, like: Tensor) -> None:
        super().__init__(graph)
        self.extra_traceback = False
        self.garbage_collect_values = False  # of what has been written to, views are made again
        nodes = list(graph.graph.nodes)
        self.at = {node: n for n, node in enumerate(nodes)}
        self.last_use = {node: max((self.at[user] for user in node.users), default=-1) for node in nodes}
        self.probes, self.like = probes, like
        self.layers: list[Units] = []
        self.activations: set[str] = set()
        self.tables: list[tuple[Tensor, Tensor]] = []
        self._known: dict[int, tuple[Encoded, int, int]] = {}
        self.node: fx.Node = next(iter(graph.graph.nodes))
        chunks = probes.values.to(like.device).split(ROWS)
        self.x = Encoded(tuple(form.of(chunk, like) for chunk in chunks))

    def trace(self) -> Units | Ended:
        """The outputs of the network."""
        out = self.run(self.x)
        if isinstance(out, Encoded):
            out = self._units(out)
        if not isinstance(out, Units | Ended):
            raise ValueError(f"fast_sampler: a decoder of vectors must give a function of x, got {type(out).__name__}")
        return out

    def refuse(self, got: str) -> NoReturn:
        names = ", ".join((*ACTIVATIONS, "leaky_relu", "prelu"))
        refuse(self.node, f"linear layers and activations ({names}) in turn, where x is a vector", got)

    def _refuse_end(self, end: Ended) -> NoReturn:
        self.node = end.node
        self.refuse(f"{end.name} before the end")

    def run_node(self, n: fx.Node) -> Any:
        self.node = n
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if n.op == "output":
            return args[0]
        values = [a for a in tree_flatten((args, kwargs))[0] if isinstance(a, Encoded | Units | Ended)]
        if n.op == "placeholder" or not values:
            return super().run_node(n)
        try:
            if all(isinstance(v, Encoded) for v in values) and name_of(n) not in (
                "mm",
                "addmm",
                "masked_linear",
                "made",
            ):
                return self._encode(n, args, kwargs)
            value = self._symbolic(n, args, kwargs)
            if is_in_place(n) and isinstance(n.args[0], fx.Node):
                self._write(n.args[0], value, n)
            return value
        except (TypeError, AttributeError, RuntimeError, KeyError, IndexError) as error:
            self.refuse(f"{name_of(n)} ({str(error).splitlines()[0]})")

    def _encode(self, n: fx.Node, args: Any, kwargs: Any) -> Any:
        """The operation itself, on each batch of the probes."""
        writes = name_of(n).endswith("_")
        outs = []
        for i in range(len(self.x.chunks)):
            own_args, own_kwargs = tree_map(lambda a, i=i: a.chunks[i] if isinstance(a, Encoded) else a, (args, kwargs))
            if writes and not isinstance(args[0], Encoded):  # to a constant, which the next batch needs as it was
                own_args = (own_args[0].clone(), *own_args[1:])
            outs.append(n.target(*own_args, **own_kwargs))  # type: ignore[operator]
        if isinstance(outs[0], list | tuple):
            return [Encoded(tuple(out[i] for out in outs)) for i in range(len(outs[0]))]
        out = Encoded(tuple(outs))
        if writes and isinstance(n.args[0], fx.Node):
            self._known.clear()  # views of what is written to share its memory
            if isinstance(args[0], Encoded):
                self.env[n.args[0]] = out
            else:
                self._write(n.args[0], out, n)
        return out

    def _write(self, target: fx.Node, value: Any, by: fx.Node, of: fx.Node | None = None) -> None:
        """Sets what an operation writes to, what that is a view of, and the views of both; of: a view that is set."""
        old, self.env[target] = self.env[target], value
        if isinstance(value, Units) and isinstance(old, Units):
            self.env[target] = value = replace(value, shape=old.shape, merged=old.merged)
        for view in target.users:
            if view is not of and self._is_read(view, target, by):
                self._renew(view, by)
        base = target.args[0] if target.args else None
        if not isinstance(base, fx.Node) or not shares_memory(target, base):
            return
        whole = self.env[base]
        if is_in_place(target) or (
            name_of(target) in _ORDERED and isinstance(value, Units) and isinstance(whole, Units)
        ):
            self._write(base, value, by, target)
        elif self._is_seen(base, by, target):
            self.node = by
            self.refuse(f"{name_of(by)} of {name_of(target)} of what is read afterwards")

    def _is_seen(self, base: fx.Node, by: fx.Node, of: fx.Node) -> bool:
        """True where a tensor, what it is a view of or a view other than `of` is read after an operation."""
        if any(v is not of and (self.at[v] > self.at[by] or self._is_read(v, base, by)) for v in base.users):
            return True
        above = base.args[0] if base.args else None
        return isinstance(above, fx.Node) and shares_memory(base, above) and self._is_seen(above, by, base)

    def _is_read(self, view: fx.Node, base: fx.Node, by: fx.Node) -> bool:
        """True where a view made before an operation, or a view of it, is read after it."""
        if self.at[view] >= self.at[by] or not shares_memory(view, base):
            return False
        return self.last_use[view] > self.at[by] or any(self._is_read(v, view, by) for v in view.users)

    def _renew(self, view: fx.Node, by: fx.Node) -> None:
        self.env[view] = self.env[view.args[0]] if is_in_place(view) else self.run_node(view)  # type: ignore[index]
        for other in view.users:
            if self._is_read(other, view, by):
                self._renew(other, by)

    def _units(self, value: Any) -> Units:
        """Numbers that follow from levels, as inputs of the network."""
        if isinstance(value, Units):
            return value
        if isinstance(value, Ended):
            self._refuse_end(value)
        if not isinstance(value, Encoded):
            return self._constant(value)
        whole = torch.cat(list(value.chunks))
        if not whole.is_floating_point():
            whole = whole.to(self.like)
        shape = tuple(whole.shape[1:])
        if id(value) not in self._known:
            start = sum(len(of) for _, of in self.tables)
            self.tables.append(self.probes.table(whole.flatten(1), self.refuse))
            self._known[id(value)] = (value, start, start + whole[0].numel())
        _, start, end = self._known[id(value)]
        return Units({0: _columns(self.like, start, end)}, self.like.new_zeros(end - start), shape)

    def _constant(self, value: Any) -> Units:
        """A constant that is the same in every row of the batch."""
        row = value[0] if value.dim() and len(value) in (1, ROWS) else value
        if not value.equal(row.expand_as(value)):
            self.refuse("a constant that differs from row to row")
        row = row.to(self.like)
        return Units({}, row.flatten(), tuple(row.shape))

    def _symbolic(self, n: fx.Node, args: Any, kwargs: Any) -> Any:
        name = name_of(n)
        if name in SAME:
            return args[0] if not isinstance(args[0], list | tuple) else list(args[0])
        if name in _MOVED:
            return self._moved(n, args, kwargs)
        if isinstance(args[0], Ended) or (len(args) > 1 and isinstance(args[1], Ended)):
            return self._scaled_end(name, *args)
        plain = name.removesuffix("_")
        if plain in ACTIVATIONS:
            if any(option != 1 for option in args[1:]):  # alpha and scales of an ELU
                self.refuse(f"{plain} of {args[1:]}")
            return self._activate(self._units(args[0]), plain)
        handler: Callable | None = getattr(self, f"_op_{plain}", None)
        if handler is None:
            self.refuse(name)
        return handler(*args, **kwargs)

    def _moved(self, n: fx.Node, args: Any, kwargs: Any) -> Any:
        """An operation that moves numbers about, done to their places."""
        kinds = (Encoded, Units, Ended, *([Tensor] if name_of(n) in ("cat", "stack") else []))
        values: list[Any] = [a for a in tree_flatten(args)[0] if isinstance(a, kinds)]
        if any(isinstance(v, Ended) for v in values):
            if len(values) > 1:
                self._refuse_end(next(v for v in values if isinstance(v, Ended)))
            return self._move_end(n, values[0], args, kwargs)
        parts = [self._units(v) for v in values]
        if name_of(n) in _RESHAPED and (self._is_merged(args[1]) or parts[0].merged):
            return self._merge(parts[0], args[1])
        if any(part.merged for part in parts):
            self.refuse(f"{name_of(n)} of dimensions joined with the batch")
        start, places = 0, []
        for part in parts:
            index = torch.arange(start, start + len(part.bias), device="cpu").view(part.shape)
            places.append(index.expand(ROWS, *part.shape))
            start += len(part.bias)
        whole = joined(parts)
        return _map_rows(self._move(n, args, kwargs, places), whole.rows)

    @staticmethod
    def _is_merged(shape: Sequence[int]) -> bool:
        return shape[0] != ROWS and shape[0] > 0 and shape[0] % ROWS == 0

    def _merge(self, value: Units, shape: Sequence[int]) -> Units:
        """The first dimension behind the batch joined with it, or apart again."""
        merged = self._is_merged(shape)
        first = shape[0] // ROWS if merged else shape[1]
        own = torch.empty(len(value.bias), device="cpu").view(first, *shape[1 if merged else 2 :]).shape
        if not merged and shape[0] not in (ROWS, -1):
            self.refuse(f"a view to {list(shape)}")
        return replace(value, shape=tuple(own), merged=merged)

    def _move_end(self, n: fx.Node, end: Ended, args: Any, kwargs: Any) -> Any:
        places = torch.arange(end.index.numel(), device="cpu").view(end.index.shape).expand(ROWS, *end.index.shape)

        def moved(index: Tensor) -> Ended:
            flat = index.flatten()
            own = end.index.flatten()[flat].view(index.shape)
            return replace(end, index=own, gain=end.gain[flat], offset=end.offset[flat])

        return _map_rows(self._move(n, args, kwargs, [places]), moved)

    def _move(self, n: fx.Node, args: Any, kwargs: Any, places: Sequence[Tensor]) -> Any:
        left, kinds = iter(places), (Encoded, Units, Ended, *([Tensor] if len(places) > 1 else []))
        own = tree_map(lambda a: next(left) if isinstance(a, kinds) else a, args)
        out = n.target(*own, **kwargs)  # type: ignore[operator]
        for part in out if isinstance(out, list | tuple) else [out]:
            if part.dim() == 0 or len(part) != ROWS or not part.equal(part[:1].expand_as(part)):
                self.refuse(f"{name_of(n)} that mixes rows")
        return out

    def _activate(self, value: Units, name: str) -> Units:
        self.layers.append(value)
        self.activations.add(name)
        count = len(value.bias)
        own = {len(self.layers): _columns(self.like, 0, count)}
        return Units(own, self.like.new_zeros(count), value.shape, value.merged)

    def _signed(self, value: Units, slope: Tensor) -> Units:
        """relu(v) - slope relu(-v)."""
        flat = replace(value, merged=False)
        both = self._activate(joined([flat, flat.times(-torch.ones_like(value.bias))]), "relu")
        count = len(value.bias)
        matrix = torch.cat([torch.eye(count).to(self.like), torch.diag(-slope)], 1)
        return replace(both.product(matrix), shape=value.shape, merged=value.merged)

    def _op_leaky_relu(self, value: Any, slope: float = 0.01) -> Units:
        value = self._units(value)
        return self._signed(value, torch.full_like(value.bias, slope))

    def _op_prelu(self, value: Any, slope: Tensor) -> Units:
        value = self._units(value)
        if slope.dim() == 1 and slope.numel() > 1:  # by channels, the first dimension behind the batch
            slope = slope.view(-1, *[1] * (len(value.shape) - 1))
        return self._signed(value, self._like(slope, value))

    _op__prelu_kernel = _op_prelu

    def _op_rrelu_with_noise(
        self, value: Any, noise: Any, low: float = 1 / 8, high: float = 1 / 3, training: bool = False, *_: Any
    ) -> Units:
        if training:
            self.refuse("rrelu in training mode")
        return self._op_leaky_relu(value, (low + high) / 2)

    def _op_native_batch_norm(self, value: Any, *args: Any) -> tuple[Units, None, None]:
        """Batch normalisation of the first dimension behind the batch, by running statistics."""
        weight, bias, mean, var, *training, _, eps = args
        value = self._units(value)
        if any(training) or value.merged:
            self.refuse("batch normalisation by statistics of the batch" if any(training) else "one of other dimensions")
        scale = (var + eps).rsqrt() * (1 if weight is None else weight)
        shift = (0 if bias is None else bias) - mean * scale
        scale, shift = (t.view(-1, *[1] * (len(value.shape) - 1)) for t in (scale, shift))
        return value.times(self._like(scale, value)).plus(self._like(shift, value)), None, None

    _op__native_batch_norm_legit_no_training = _op_native_batch_norm

    def _like(self, constant: Any, value: Units) -> Tensor:
        """A constant for each number of a value, ``[P]``."""
        if not isinstance(constant, Tensor):
            return torch.full_like(value.bias, constant)
        if constant.dim() == len(value.shape) + 1:
            constant = self._constant(constant.expand(ROWS, *constant.shape[1:])).bias.view(constant.shape[1:])
        return constant.to(value.bias).expand(value.shape).flatten()

    def _op_mm(self, value: Any, matrix: Tensor) -> Units:
        return self._units(value).product(matrix.T)

    def _op_addmm(self, bias: Tensor, value: Any, matrix: Tensor) -> Units:
        out = self._op_mm(value, matrix)
        return out.plus(self._like(bias, out))

    def _op_masked_linear(
        self, value: Any, weight: Tensor, bias: Any, ins: Any, outs: Any, adjacency: Any, activation: str, *_: Any
    ) -> Units:
        """The op of this package: of its own MADEs, and of layers that were accelerated."""
        live = linear_mask(ins, outs) if adjacency is None else adjacency
        out = self._op_mm(value, torch.where(live, weight, 0).T)
        out = out if bias is None else out.plus(self._like(bias, out))
        return out if activation == "none" else self._activate(out, activation)

    def _op_made(
        self, value: Any, weights: list, biases: list, degrees: list, cond: Any, activation: str, *_: Any
    ) -> Units:
        """All layers of a MADE of this package, in one op."""
        for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            value = self._op_masked_linear(value, weight, bias, degrees[i], degrees[i + 1], None, "none")
            value = value if i or cond is None else value.plus(self._like(cond, value))
            value = value if i + 1 == len(weights) else self._activate(value, activation)
        return value

    def _op_add(self, a: Any, b: Any, alpha: float = 1) -> Units:
        if not isinstance(a, Units | Encoded):
            b = self._units(b)
            return b.times(torch.full_like(b.bias, alpha)).plus(self._like(a, b))
        a = self._units(a)
        if not isinstance(b, Units | Encoded):
            return a.plus(alpha * self._like(b, a))
        b = self._units(b)
        if b.shape != a.shape or b.merged != a.merged:
            self.refuse(f"a sum of {list(a.shape)} and {list(b.shape)}")
        return total([a, b.times(torch.full_like(b.bias, alpha))])

    def _op_sub(self, a: Any, b: Any, alpha: float = 1) -> Units:
        if isinstance(b, Units | Encoded):
            b = self._units(b)
            b = b.times(torch.full_like(b.bias, -alpha))
            return self._op_add(a, b) if isinstance(a, Units | Encoded) else b.plus(self._like(a, b))
        return self._op_add(a, b, -alpha)

    def _op_rsub(self, a: Any, b: Any, alpha: float = 1) -> Units:
        return self._op_sub(b, a, alpha)

    def _op_mul(self, a: Any, b: Any) -> Units:
        value, by = (a, b) if isinstance(a, Units | Encoded) else (b, a)
        if isinstance(by, Units | Encoded):
            self.refuse("a product of two functions of x")
        value = self._units(value)
        return value.times(self._like(by, value))

    def _op_div(self, value: Any, by: Any) -> Units:
        return self._op_mul(value, 1 / by)

    def _op_neg(self, value: Any) -> Units:
        return self._op_mul(value, -1.0)

    def _end(self, value: Any, name: str, function: Callable[[Tensor], Tensor]) -> Ended:
        value = self._units(value)
        if value.merged:
            self.refuse(f"{name} of dimensions joined with the batch")
        count = len(value.bias)
        one = torch.ones_like(value.bias)
        index = torch.arange(count, device="cpu").view(value.shape)
        return Ended(value, name, function, index, one, torch.zeros_like(one), self.node)

    def _op_sigmoid(self, value: Any) -> Ended:
        """The probabilities of a network's end, whose logits are drawn from."""
        return self._end(value, "sigmoid", torch.sigmoid)

    def _op__softmax(self, value: Any, dim: int, half_to_float: bool) -> Ended:
        return self._grouped(self._end(value, "softmax", lambda v: F.softmax(v, dim)), dim)

    def _op__log_softmax(self, value: Any, dim: int, half_to_float: bool) -> Ended:
        return self._grouped(self._end(value, "log_softmax", lambda v: F.log_softmax(v, dim)), dim)

    def _grouped(self, end: Ended, dim: int) -> Ended:
        dim = dim % (end.index.dim() + 1) - 1
        if dim < 0:
            self.refuse(f"{end.name} over the batch")
        return replace(end, groups=end.index.narrow(dim, 0, 1).expand_as(end.index).flatten())

    def _scaled_end(self, name: str, a: Any, b: Any = None, *others: Any) -> Ended:
        """A constant times probabilities, plus a constant."""
        end, by = (a, b) if isinstance(a, Ended) else (b, a)
        plain = name.removesuffix("_")
        if isinstance(by, Encoded | Units | Ended) or others or plain not in ("mul", "add", "div", "sub", "rsub"):
            self._refuse_end(end)
        shaped = Units({}, end.offset, tuple(end.index.shape))
        constant = self._like(by, shaped)
        if plain in ("mul", "div"):
            constant = constant if plain == "mul" else 1 / constant
            return replace(end, gain=end.gain * constant, offset=end.offset * constant)
        if plain == "rsub" or (plain == "sub" and end is b):
            return replace(end, gain=-end.gain, offset=constant - end.offset)
        return replace(end, offset=end.offset + (constant if plain == "add" else -constant))


def _columns(like: Tensor, start: int, end: int) -> Tensor:
    """``[end - start, end]``: an identity behind `start` columns of zeros."""
    out = like.new_zeros(end - start, end)
    out[:, start:] = torch.eye(end - start).to(like)
    return out


def _map_rows(out: Any, function: Callable[[Tensor], Any]) -> Any:
    return [function(part[0]) for part in out] if isinstance(out, list | tuple) else function(out[0])
