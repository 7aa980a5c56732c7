"""Whether a fast forward is a module's own: on copies with random weights, outputs, gradients and state."""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from .fast_forward import FastForward, Spec
from .probe import ProbeError, call, like_of, random, stand_in

# Of the largest number: kernels may round to 10 bits on a GPU, and sum in another order.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-2, torch.bfloat16: 0.1, torch.float16: 0.1}


def compare(
    module: nn.Module,
    inner: str,
    spec: Spec,
    backend: str,
    live: Tensor,
    dtype: torch.dtype,
    activation: str = "none",
) -> str:
    """Raises ProbeError unless outputs and gradients are the module's own; returns a remark on them.

    inner: path of the layer within the module, empty where it is the module.
    """
    theirs, ours = stand_in(module, dtype).eval(), stand_in(module, dtype).eval()
    FastForward(ours, spec, backend, ours.get_submodule(inner), activation).install()
    weight = f"{inner}.weight".removeprefix(".")
    remark, attributes = "", None
    # what is cut off somewhere, to the numbers of half precision or as an activation, differs only there
    reaches = (1.0, 1e6) if dtype == torch.float64 else (1.0,)
    for training, shape, reach in product((False, True), _shapes(theirs.get_submodule(inner)), reaches):
        theirs.train(training)
        ours.train(training)
        before = {name: t.detach().clone() for name, t in theirs.state_dict().items()}
        expected = _results(theirs, shape, reach)
        _check_state(theirs, before, weight, live)
        attributes = _check_attributes(theirs, attributes)
        got = _results(ours, shape, reach)
        for name, want in expected.items():
            have = got[name]
            if name == f"the gradient of {weight}":
                remark = "" if torch.where(live, 0, want).eq(0).all() else "dead weights now have gradient 0"
                want = torch.where(live, want, 0)
            error = (have - want).abs().max().item() if have.shape == want.shape else float("inf")
            if not error <= TOLERANCE[dtype] * (1e-3 + want.abs().max().item()):
                raise ProbeError(f"{name} differs from that of {spec} by {error:.3g}")
    return remark


def _shapes(layer: Any) -> list[tuple[int, ...]]:
    """Of inputs to compare on: images that differ in both sides, and smaller than a kernel as well."""
    if isinstance(layer, nn.Linear):
        return [(3, layer.in_features)]
    side = 1 + max(step * (k - 1) for step, k in zip(layer.dilation, layer.kernel_size, strict=True))
    return [(2, layer.in_channels, side + 2, side + 3), (1, layer.in_channels, 3, 2)]


def _results(layer: nn.Module, shape: tuple[int, ...], reach: float) -> dict[str, Tensor]:
    generator, like = torch.Generator().manual_seed(2), like_of(layer)
    x = (reach * random(shape, generator)).to(like).requires_grad_()
    with torch.enable_grad():
        out = call(layer, x)
        wanted = {"x": x, **{name: p for name, p in layer.named_parameters() if p.requires_grad}}
        grads = torch.autograd.grad(
            out, list(wanted.values()), random(out.shape, generator).to(out), allow_unused=True, materialize_grads=True
        )
    return {"the output": out.detach(), **{f"the gradient of {n}": g for n, g in zip(wanted, grads, strict=True)}}


def _check_state(module: nn.Module, before: dict[str, Tensor], weight: str, live: Tensor) -> None:
    """Raises ProbeError where a forward wrote to anything but the dead weights."""
    for name, now in module.state_dict().items():
        was = before[name]
        if name == weight:
            was, now = torch.where(live, was, 0), torch.where(live, now, 0)
        if not now.equal(was):
            raise ProbeError(f"its forward writes to {name}")


Attributes = dict[tuple[nn.Module, str], Any]


def _check_attributes(module: nn.Module, before: Attributes | None) -> Attributes:
    """Raises ProbeError where a forward that is not the first, which may fill caches, has set attributes anew."""
    computed = ("training", "weight", "bias")  # by train() and by hooks
    now = {(p, name): v for p in module.modules() for name, v in vars(p).items() if name not in computed}
    for key, value in now.items():
        if before is not None and before.get(key) is not value:
            raise ProbeError(f"its forward writes to {key[1]}")
    return now
