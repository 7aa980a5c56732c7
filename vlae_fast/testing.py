"""Checks of an op against its reference: inputs, budgets, one check for every backend, for tests and benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from . import activations, ops
from .masks import made_degrees

TF32_EPS = 2.0**-10
ROUNDINGS = 4  # of one number on its way through an op
OPCHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


@dataclass(frozen=True)
class Case:
    """One call of an op: ``function(*tensors, **options)``; floating-point tensors are differentiated."""

    name: str
    op: str
    tensors: dict[str, Any]  # Tensor, list of Tensor, or None
    options: dict[str, Any] = field(default_factory=dict)

    def to(self, dtype: torch.dtype | None = None, device: str | None = None) -> Case:
        """The same call in another dtype (integers stay what they are) or on another device."""

        def move(t: Tensor) -> Tensor:
            moved = t.to(device, dtype if t.is_floating_point() else None)
            if t.is_contiguous() or moved is t or t.dim() == 0:
                return moved
            gapped = moved.new_empty([size + 2 for size in t.shape])  # a slice is still one
            return gapped[tuple(slice(1, size + 1) for size in t.shape)].copy_(moved)

        tensors = _map(self.tensors, move)
        return Case(self.name, self.op, tensors, self.options)

    def __str__(self) -> str:
        return self.name


def _map(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, dict):
        return {k: _map(v, function) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_map(v, function) for v in value]
    return function(value) if isinstance(value, Tensor) else value


def _leaves(value: Any) -> list[Tensor]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [leaf for item in value for leaf in _leaves(item)]
    return [value] if isinstance(value, Tensor) else []


@contextmanager
def uninitialised_is_nan() -> Iterator[None]:
    """Fills new memory with NaN, so that a kernel that forgets to write an element is caught."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def sliced(*shape: int, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
    """A normal tensor cut out of a larger one, so that it is not contiguous."""
    big = torch.randn([s + 2 for s in shape], generator=generator, dtype=torch.float64, device="cpu").to(dtype)
    return big[tuple(slice(1, s + 1) for s in shape)]


def run(
    case: Case, backend: str, cotangents: list[Tensor] | None = None, *, poisoned: bool = True
) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs of a case, and the gradients of its floating-point tensors for the given cotangents.

    ``poisoned``: under `uninitialised_is_nan`.
    """
    tensors = _map(case.tensors, lambda t: t.detach().requires_grad_(t.is_floating_point()))
    with uninitialised_is_nan() if poisoned else nullcontext():
        out = getattr(ops, case.op)(**tensors, **case.options, backend=backend)
        outs = list(out) if isinstance(out, tuple) else [out]
        if cotangents is None:
            return [o.detach() for o in outs], []
        wanted = [t for t in _leaves(tensors) if t.requires_grad]
        grads = torch.autograd.grad(outs, wanted, cotangents, allow_unused=True)
    return [o.detach() for o in outs], [g for g in grads if g is not None]


def budget(truth: Tensor, same_dtype: Tensor, *nudged: Tensor, eps: float | None = None) -> float:
    """The largest error that is not a bug: ``2 * (error of the reference in this dtype + eps * max|truth|)``.

    The error is the largest one of the reference in this dtype and of its results for nudged inputs; ``eps`` is the
    dtype's, unless products round their inputs further.
    """
    if truth.numel() == 0:
        return 0.0
    eps = eps or (torch.finfo(same_dtype.dtype).eps if same_dtype.is_floating_point() else 0.0)  # levels are exact
    error = max((other.double() - truth).abs().max().item() for other in (same_dtype, *nudged))
    return 2 * (error + eps * truth.abs().max().item())


def _nudge(t: Tensor, generator: torch.Generator) -> Tensor:
    """t in float64, every number moved by as much as one product, sum, activation and slope round."""
    noise = torch.rand(t.shape, generator=generator, dtype=torch.float64, device="cpu") * 2 - 1
    return t.double() * (1 + ROUNDINGS * torch.finfo(t.dtype).eps * noise)


def _may_round(case: Case, outs: list[Tensor]) -> bool:
    """True where torch lets products of this op round to TF32: its libraries do so for some shapes only."""
    if not any(o.is_cuda and o.dtype == torch.float32 for o in outs):
        return False
    setting: Any = torch.backends.cudnn.conv if case.op == "masked_conv" else torch.backends.cuda.matmul  # type: ignore[attr-defined]
    return bool(setting.fp32_precision == "tf32")


def _run_nudged(case: Case, cotangents: list[Tensor] | None, generator: torch.Generator) -> tuple[list[Tensor], ...]:
    tensors = _map(case.tensors, lambda t: _nudge(t, generator) if t.is_floating_point() else t)
    moved = None if cotangents is None else [_nudge(c, generator) for c in cotangents]
    return run(Case(case.name, case.op, tensors, case.options), "reference", moved)


def check_op(case: Case, backend: str, *, grad: bool = True, nudges: int = 0) -> dict[str, float]:
    """Holds a backend to the reference: forward and every gradient, within the derived budget.

    Where a result is one number or a few, the reference may owe a small error to luck. Its error is then
    measured a second way: as the change of the result for ``nudges`` inputs that are off by some roundings.

    Returns the largest error over its budget, per quantity (below 1 is right).

    Raises:
        AssertionError: names the case, the quantity, the error and the budget.
    """
    generator = torch.Generator().manual_seed(0)
    cotangents = None
    if grad:
        outs, _ = run(case, backend)
        cotangents = [sliced(*o.shape, generator=generator, dtype=o.dtype).to(o.device) for o in outs]
    got = run(case, backend, cotangents)
    same = run(case, "reference", cotangents)
    double = None if cotangents is None else [c.double() for c in cotangents]
    truth = run(case.to(torch.float64), "reference", double)
    near = [_run_nudged(case, cotangents, generator) for _ in range(nudges)]
    eps = TF32_EPS if _may_round(case, same[0]) else None
    ratios = {}
    for kind, gots, sames, truths, *nears in zip(("output", "gradient"), got, same, truth, *near, strict=True):
        assert len(gots) == len(truths), f"{case}: {backend} gave {len(gots)} {kind}s, the reference {len(truths)}"
        for i, (g, s, t, *n) in enumerate(zip(gots, sames, truths, *nears, strict=True)):
            assert g.shape == t.shape and g.dtype == s.dtype, f"{case}: {kind} {i} is {g.dtype} {tuple(g.shape)}"
            error, allowed = (g.double() - t).abs().max().item() if g.numel() else 0.0, budget(t, s, *n, eps=eps)
            assert error <= allowed, f"{case}: {backend} {kind} {i} is off by {error:.3g}, budget {allowed:.3g}"
            ratios[f"{kind}{i}"] = error / allowed if allowed else 0.0
    return ratios


def opcheck(case: Case, backend: str) -> None:
    """`torch.library.opcheck` of the dispatcher op behind a case."""
    tensors = _map(case.tensors, lambda t: t.detach().requires_grad_(t.is_floating_point()))
    defaults = {
        "cond": None,
        "bias": None,
        "context": None,
        "context_weight": None,
        "residual": False,
        "in_degrees": None,
        "out_degrees": None,
        "adjacency": None,
        "image_channels": 1,
        "dilation": (1, 1),
        "scale": "exp",
    }
    given = {**defaults, "activation": next(iter(activations.names(case.op)), None), **tensors, **case.options}
    overload = getattr(torch.ops.vlae_fast, case.op).default
    args = [given[a.name] if a.name != "backend" else backend for a in overload._schema.arguments]
    torch.library.opcheck(overload, tuple(args), test_utils=OPCHECKS)


def conv_case(
    mask_type: str,
    shape: tuple[int, int, int, int],
    p: int,
    k: int,
    *,
    activation: str = "none",
    cond: str = "none",
    context: int = 0,
    residual: bool = False,
    bias: bool = True,
    image_channels: int = 1,
    dilation: tuple[int, int] = (1, 1),
    layout: str = "sliced",
    dtype: torch.dtype = torch.float32,
) -> Case:
    """A `masked_conv` call; p: channels before the activation; cond: none, vector, map; context: its channels, 0: none.

    layout: how x lies in memory: sliced, contiguous, channels_last, expanded.
    """
    g = torch.Generator().manual_seed(1)
    b, c_in, h, w = shape
    x = sliced(*shape, generator=g, dtype=dtype)
    if layout == "contiguous":
        x = x.contiguous()
    elif layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    elif layout == "expanded":
        x = x[:1].expand(shape) if b else x
    scale = (c_in * k * k) ** -0.5
    tensors = {
        "x": x,
        "weight": sliced(p, c_in, k, k, generator=g, dtype=dtype) * scale,
        "bias": sliced(p, generator=g, dtype=dtype) if bias else None,
        "cond": {"none": None, "vector": sliced(b, p, generator=g), "map": sliced(b, p, h, w, generator=g)}[cond],
    }
    if context:
        tensors["context"] = sliced(b, context, h, w, generator=g)
        tensors["context_weight"] = sliced(p, context, generator=g) * context**-0.5
    tensors = _map(tensors, lambda t: t.to(dtype))
    options = {"mask_type": mask_type, "activation": activation, "image_channels": image_channels}
    kernel = f"{mask_type}{k}x{k}"
    if dilation != (1, 1):
        options["dilation"] = dilation
        kernel += "d" + "x".join(map(str, dilation))
    if residual:
        options["residual"] = True
    more = [word for word, on in ((f"context{context}", context), ("residual", residual)) if on]
    name = "-".join(map(str, (kernel, *shape, p, activation, cond, *more, layout, dtype)))
    return Case(name, "masked_conv", tensors, options)


def linear_case(
    batch: int,
    in_dim: int,
    out_dim: int,
    *,
    adjacency: bool = False,
    activation: str = "none",
    dtype: torch.dtype = torch.float32,
) -> Case:
    """A `masked_linear` call with sorted degrees, or with a random adjacency."""
    g = torch.Generator().manual_seed(2)
    top = max(in_dim, 2)
    tensors: dict[str, Any] = {
        "x": sliced(batch, in_dim, generator=g, dtype=dtype),
        "weight": sliced(out_dim, in_dim, generator=g, dtype=dtype) * in_dim**-0.5,
        "bias": sliced(out_dim, generator=g, dtype=dtype),
    }
    if adjacency:
        tensors["adjacency"] = torch.rand(out_dim, in_dim, generator=g) < 0.4
    else:
        tensors["in_degrees"] = torch.arange(in_dim) * top // in_dim
        tensors["out_degrees"] = torch.arange(out_dim) * top // out_dim
    kind = "adjacency" if adjacency else "degrees"
    name = f"{batch}x{in_dim}-{out_dim}-{kind}-{activation}-{str(dtype).removeprefix('torch.')}"
    return Case(name, "masked_linear", tensors, {"activation": activation})


def made_case(
    batch: int,
    dim: int,
    hidden: tuple[int, ...],
    *,
    affine: bool = True,
    activation: str = "relu",
    scale: str = "exp",
    cond: bool = False,
    reverse: bool = False,
    steps: int = 1,
    dtype: torch.dtype = torch.float32,
) -> Case:
    """A `made_inverse` call with small weights, so that the inverse is well conditioned."""
    g = torch.Generator().manual_seed(3)
    degrees = made_degrees(dim, hidden, 2 if affine else 1)
    if reverse:
        degrees[0], degrees[-1] = degrees[0].flip(0), (degrees[0].flip(0) - 1).repeat(2 if affine else 1)
    sizes = [len(d) for d in degrees]
    weight_size = 0.5 if steps == 1 else 0.1  # an exponential of an exponential soon leaves every dtype
    tensors = {
        "eps": sliced(batch, dim, generator=g, dtype=dtype),
        "weights": [
            sliced(o, i, generator=g, dtype=dtype) * weight_size * i**-0.5 for i, o in [*pairwise(sizes)] * steps
        ],
        "biases": [sliced(o, generator=g, dtype=dtype) * 0.1 for o in sizes[1:] * steps],
        "degrees": degrees,
        "cond": sliced(batch, steps * hidden[0], generator=g, dtype=dtype) if cond else None,
    }
    kind = "affine" if affine else "mean_only"
    words = {scale: scale != "exp", "cond": cond, "reverse": reverse, f"{steps}steps": steps > 1}
    extras = [word for word, on in words.items() if on]
    name = "-".join([f"{batch}x{dim}", *map(str, hidden), kind, activation, *extras])
    return Case(name, "made_inverse", tensors, {"activation": activation, "scale": scale})


def made_layers_case(
    batch: int, dim: int, hidden: tuple[int, ...], *, dtype: torch.dtype = torch.float32, **options: Any
) -> Case:
    """A `made` call: the network of `made_case` with larger weights."""
    case = made_case(batch, dim, hidden, dtype=dtype, **options)
    eps, weights = case.tensors["eps"], [2 * w for w in case.tensors["weights"]]
    tensors = {"x": eps, **case.tensors, "weights": weights}
    del tensors["eps"]
    return Case(case.name, "made", tensors, {"activation": case.options["activation"]})


def made_sample_case(
    batch: int, dim: int, hidden: tuple[int, ...], *, dtype: torch.dtype = torch.float32, **options: Any
) -> Case:
    """A `made_sample` call: that of `made_case`, of one parameter a dimension, with uniform noise and larger logits."""
    case = made_case(batch, dim, hidden, affine=False, dtype=dtype, **options)
    uniform = torch.rand((batch, dim), generator=torch.Generator().manual_seed(4), dtype=torch.float64, device="cpu")
    tensors = {**case.tensors, "noise": uniform.to(dtype).clamp(max=1 - torch.finfo(dtype).eps)}
    tensors["weights"] = [3 * w for w in tensors["weights"]]
    del tensors["eps"]
    return Case(case.name, "made_sample", tensors, {"activation": case.options["activation"]})


def made_sample_levels_case(
    batch: int,
    tables: tuple[tuple[int, int], ...],
    hidden: tuple[int, ...],
    *,
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> Case:
    """A `made_sample_levels` call of tables ``[K, E]`` of these sizes: the hidden degrees are those of `made_case`."""
    case = made_sample_case(batch, len(tables), hidden, dtype=dtype, **options)
    g, order = torch.Generator().manual_seed(5), case.tensors["degrees"][0]
    levels, inputs = (torch.tensor(counts, device="cpu") for counts in zip(*tables, strict=True))
    degrees = [order.repeat_interleave(inputs), *case.tensors["degrees"][1:-1], (order - 1).repeat_interleave(levels)]
    sizes = list(pairwise(map(len, degrees)))
    tensors = {
        **case.tensors,
        "weights": [3 * sliced(o, i, generator=g, dtype=dtype) * i**-0.5 for i, o in sizes],
        "biases": [sliced(o, generator=g, dtype=dtype) * 0.1 for _, o in sizes],
        "degrees": degrees,
        "tables": [sliced(k, e, generator=g, dtype=dtype) for k, e in tables],
    }
    return Case(f"{case.name}-{len(tables)}tables", "made_sample_levels", tensors, case.options)
