"""Formulas that a trace spells out, put back as the one operation that they are: layer norms, log-probabilities."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from .writer import is_in_place, name_of

_ATEN = torch.ops.aten


def rewrite(graph: fx.Graph) -> None:
    """Replaces in a graph of ATen operations what one operation computes up to rounding:

    ``(x - mean x) / sqrt(mean (x - mean x)^2 + eps)`` over a dimension is a layer norm; ``x / sqrt(mean x^2 + eps)`` is
    the first half of that of (x, -x), whose mean is 0; ``x - logsumexp x`` is a log_softmax.
    """
    for node in list(graph.nodes):
        found = _norm(node) or _log_softmax(node)
        if found is not None:
            with graph.inserting_before(node):
                node.replace_all_uses_with(found(graph, node))
            _erase(graph, node)


def drop_unused(graph: fx.Graph) -> None:
    """Takes out of a graph what nothing depends on."""
    for node in reversed(list(graph.nodes)):
        if node.op == "call_function" and not node.users and not name_of(node).endswith("_"):
            graph.erase_node(node)


def _erase(graph: fx.Graph, node: fx.Node) -> None:
    """Takes a node out that nothing reads, and what it alone read, as far as that is written in place."""
    base = node.args[0] if is_in_place(node) else None
    if node.users or (isinstance(base, fx.Node) and len(base.users) > 1) or node.op != "call_function":
        return
    before = node.all_input_nodes
    graph.erase_node(node)
    for other in before:
        _erase(graph, other)


Replacement = Callable[[fx.Graph, fx.Node], fx.Node]


def _norm(node: fx.Node) -> Replacement | None:
    name = _called(node)
    pairs: list[tuple[Any, Any]] = []
    if name == "div" and len(node.args) == 2:
        pairs = [(node.args[0], _argument(node.args[1], "sqrt"))]
    elif name == "mul":
        one, other = node.args
        pairs = [(one, _argument(other, "rsqrt")), (other, _argument(one, "rsqrt"))]
    for x, root in pairs:
        if (
            not isinstance(x, fx.Node)
            or _called(root).removesuffix("_") != "add"
            or not isinstance(root.args[1], int | float)
        ):
            continue
        moment, eps = root.args[0], float(root.args[1])
        whole = _centred(x)
        variance = _first(moment, "var_mean", 0) or moment
        if _called(variance) in ("var", "var_mean") and whole is not None:
            source, dim = whole
            if _same(variance.args[0], source) and _is_plain_variance(variance, dim):
                return _layer_norm(source, dim, eps)
            continue
        square, over = _mean(moment)
        if over is None or not _is_square_of(square, x):
            continue
        if whole is not None and whole[1] == over:
            return _layer_norm(whole[0], over, eps)
        return _layer_norm(x, over, eps, both=True)
    return None


def _called(node: Any) -> str:
    return name_of(node) if isinstance(node, fx.Node) and node.op == "call_function" else ""


def _argument(node: Any, name: str) -> Any:
    """What an operation of this name is of."""
    return node.args[0] if _called(node) == name else None


def _first(node: Any, name: str, index: int) -> Any:
    """The operation of this name that a node is one of the results of."""
    of = node.args[0] if _called(node) == "getitem" and node.args[1] == index else None
    return of if _called(of) == name else None


def _mean(node: Any) -> tuple[Any, int | None]:
    """What a mean over one dimension that stays is of, and which."""
    if (pair := _first(node, "var_mean", 1)) is not None:
        return pair.args[0], _single(pair.args[1], node) if pair.kwargs.get("keepdim") else None
    if _called(node) != "mean" or len(node.args) != 3 or not node.args[2]:
        return None, None
    dim = _single(node.args[1], node)
    return node.args[0], dim


def _single(dims: Any, node: Any) -> int | None:
    """The one dimension of a node that dims are, None of several."""
    dims = [dims] if isinstance(dims, int) else dims
    return dims[0] % node.meta["val"].dim() if isinstance(dims, Sequence) and len(dims) == 1 else None


def _centred(node: fx.Node) -> tuple[fx.Node, int] | None:
    """(x, dimension) of ``x - mean x``."""
    if _called(node) != "sub" or len(node.args) != 2 or node.kwargs:
        return None
    of, dim = _mean(node.args[1])
    x = node.args[0]
    return (x, dim) if dim is not None and isinstance(x, fx.Node) and _same(of, x) else None


def _is_plain_variance(node: fx.Node, dim: int) -> bool:
    """True of the mean of squares over a dimension that stays."""
    options = dict(node.kwargs)
    if len(node.args) > 2:  # (x, dims, unbiased, keepdim)
        options |= {"correction": int(bool(node.args[2])), "keepdim": node.args[3] if len(node.args) > 3 else False}
    own = _single(node.args[1], node.args[0]) if len(node.args) > 1 else None
    return bool(own == dim and options.get("correction") == 0 and options.get("keepdim"))


def _is_square_of(node: Any, x: fx.Node) -> bool:
    name = _called(node)
    if name == "mul":
        return _same(node.args[0], x) and _same(node.args[1], x)
    return name == "pow" and bool(node.args[1] == 2) and _same(node.args[0], x)


def _same(a: Any, b: Any, depth: int = 3) -> bool:
    """True of one node, or of two that compute the same of the same: a forward may write a term twice."""
    if a is b:
        return True
    if not (isinstance(a, fx.Node) and isinstance(b, fx.Node)):
        return type(a) is type(b) and not isinstance(a, fx.Node) and bool(a == b)
    if depth == 0 or a.op != "call_function" or a.target is not b.target or name_of(a) not in ("sub", "mean", "add"):
        return False
    return len(a.args) == len(b.args) and all(_same(p, q, depth - 1) for p, q in zip(a.args, b.args, strict=True))


def _layer_norm(x: fx.Node, dim: int, eps: float, both: bool = False) -> Replacement:
    def make(graph: fx.Graph, node: fx.Node) -> fx.Node:
        def call(target: Any, *args: Any) -> fx.Node:
            new = graph.call_function(target, args)
            new.meta = dict(node.meta)
            new.meta["val"] = target(*fx.node.map_arg(args, lambda n: n.meta["val"]))
            return new

        last = x.meta["val"].dim() - 1
        own = call(_ATEN.transpose.int, x, dim, last)
        length = own.meta["val"].shape[last]
        if both:
            own = call(_ATEN.cat.default, [own, call(_ATEN.neg.default, own)], last)
        count = own.meta["val"].shape[last]
        out = call(_ATEN.native_layer_norm.default, own, [count], None, None, eps)
        first = graph.call_function(operator.getitem, (out, 0))
        first.meta = {**node.meta, "val": out.meta["val"][0]}
        if both:
            first = call(_ATEN.slice.Tensor, first, last, 0, length)
        return call(_ATEN.clone.default, call(_ATEN.transpose.int, first, dim, last))  # no view: it may be written to

    return make


def _log_softmax(node: fx.Node) -> Replacement | None:
    if _called(node) != "sub" or len(node.args) != 2 or node.kwargs or _called(node.args[1]) != "logsumexp":
        return None
    total: Any = node.args[1]
    x = node.args[0]
    dim = _single(total.args[1], total)
    if not isinstance(x, fx.Node) or not _same(total.args[0], x) or dim is None or total.args[2:] != (True,):
        return None

    def make(graph: fx.Graph, node: fx.Node) -> fx.Node:
        new = graph.call_function(_ATEN._log_softmax.default, (x, dim, False))
        new.meta = dict(node.meta)
        return new

    return make
