"""A trace of somebody else's MADE: its operations as sums over units, and what it looks up of each level as a table."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NoReturn

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map

from ...ops.made_inverse import ACTIVATIONS
from .made_inputs import ROWS, Form, Probes
from .made_moves import MOVED, RESHAPED, Moves
from .made_units import Ended, Units
from .made_values import Encoded
from .rewrites import drop_unused, rewrite
from .trace import Root
from .writer import RANDOM, SAME, is_in_place, name_of, shares_memory

_ORDERED = (*RESHAPED, "flatten", "unflatten", "squeeze", "unsqueeze", "alias", "detach")  # no number moves
_MIXING = ("mm", "addmm", "mv", "masked_linear", "made")


class Branches(TorchFunctionMode):
    """Lets a forward branch on what it computes: the trace is of the branch that the probes take, and is compared."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.Tensor.__bool__, torch.Tensor.item):
            with _disable_current_modes():
                return func(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def traced(
    run: Callable[[nn.Module, Tensor, Sequence[Tensor]], Any], made: nn.Module, x: Tensor
) -> tuple[fx.GraphModule, bool, bool]:
    """The graph of ``run(made, x, ())``, whether it turns x into real numbers without looking anything up by it, and
    whether it asks for values that depend on x.
    """
    root = Root(made, run)

    def forward(x: Tensor) -> Any:
        with Branches():
            return root(x)

    forward._orig_mod = made  # type: ignore[attr-defined]  # by which the tracer knows the modules
    graph = make_fx(forward, record_module_stack=True)(x)
    rewrite(graph.graph)
    drop_unused(graph.graph)
    nodes = list(graph.graph.nodes)
    of_x = set(nodes[:1])
    for node in nodes:
        if of_x.intersection(node.all_input_nodes):
            of_x.add(node)
    values = [n.meta.get("val") for n in of_x]
    looks_up = any(isinstance(v, Tensor) and not v.is_floating_point() for v in values)
    return graph, root.converts and not looks_up, root.decides


class _SeveralError(Exception):
    """Numbers follow from several dimensions."""


def _not_single(got: str) -> NoReturn:
    raise _SeveralError(got)


class Tracer(Moves):
    """Runs a graph of ATen operations on `Encoded` and `Units` in place of x; each activation ends a layer.

    activates: also one of what follows from a single level, which else is a number of the table.
    """

    def __init__(
        self, graph: fx.GraphModule, form: Form, probes: Probes, like: Tensor, activates: bool = False
    ) -> None:
        super().__init__(graph)
        self.activates = activates
        self.extra_traceback = False
        self.garbage_collect_values = False  # of what has been written to, views are made again
        nodes = list(graph.graph.nodes)
        self.at = {node: n for n, node in enumerate(nodes)}
        self.last_use = {node: max((self.at[user] for user in node.users), default=-1) for node in nodes}
        self.probes, self.like = probes, like
        self.layers, self.activations, self.tables = [], set(), []
        self._known, self._opened = {}, {}
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

    def run_node(self, n: fx.Node) -> Any:
        self.node = n
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if n.op == "output":
            return args[0]
        values = [a for a in tree_flatten((args, kwargs))[0] if isinstance(a, Encoded | Units | Ended)]
        if n.op == "placeholder" or not values:
            return super().run_node(n)
        try:
            if all(isinstance(v, Encoded) for v in values) and not self._mixes(n, args, kwargs, len(values)):
                return self._encode(n, args, kwargs)
            value = self._symbolic(n, args, kwargs)
            if is_in_place(n) and isinstance(n.args[0], fx.Node):
                self._write(n.args[0], value, n)
            return value
        except (TypeError, AttributeError, RuntimeError, KeyError, IndexError) as error:
            self.refuse(f"{name_of(n)} ({str(error).splitlines()[0]})")

    def _mixes(self, n: fx.Node, args: Any, kwargs: Any, count: int) -> bool:
        """True of an operation on what follows from one dimension each whose result follows from several."""
        name, plain = name_of(n), name_of(n).removesuffix("_")
        if name in _MIXING or (self.activates and plain in (*ACTIVATIONS, "sigmoid")):
            return True
        if plain not in ("sum", "mean", "cumsum") and not (plain in ("add", "sub") and count > 1):
            return False
        target = getattr(getattr(torch.ops.aten, plain), n.target._overloadname)  # type: ignore[union-attr]
        outs = []
        for i in range(len(self.x.chunks)):
            own = tree_map(lambda a, i=i: a.chunks[i] if isinstance(a, Encoded) else a, (args, kwargs))
            outs.append(target(*own[0], **own[1]))
        whole = torch.cat(outs) if outs[0].dim() else outs[0]
        if len(whole) != len(self.probes.values) or not whole.is_floating_point():
            return False
        try:
            self.probes.table(whole.flatten(1), _not_single)
        except _SeveralError:
            return True
        return False

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

    def _symbolic(self, n: fx.Node, args: Any, kwargs: Any) -> Any:
        name = name_of(n)
        if name in SAME:
            return args[0] if not isinstance(args[0], list | tuple) else list(args[0])
        if name in MOVED:
            return self._moved(n, args, kwargs)
        if n.target is operator.getitem:
            return args[0][args[1]]
        if name == "empty_like":
            if any(name_of(user) in RANDOM for user in n.users):
                self.refuse("dropout that stays on")
            return None
        plain = name.removesuffix("_")
        if any(isinstance(a, Ended) for a in args[:2]):
            if plain in ("clamp", "clamp_min", "clamp_max"):
                return self._clamped_end(plain, *args)
            if plain in ("mul", "add", "div", "sub", "rsub") and self._is_by_constant(args):
                return self._scaled_end(name, *args)
            args = tree_map(lambda a: self._units(a) if isinstance(a, Ended) else a, args)
        if plain in ACTIVATIONS:
            if any(option != 1 for option in args[1:]):  # alpha and scales of an ELU
                self.refuse(f"{plain} of {args[1:]}")
            return self._activate(self._units(args[0]), plain)
        handler: Callable | None = getattr(self, f"_op_{plain}", None)
        if handler is None:
            self.refuse(name)
        return handler(*args, **kwargs)
