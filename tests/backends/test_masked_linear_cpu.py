"""masked_linear on CPUs: what is kept from call to call, and calls that leave PyTorch's dispatcher out."""

from typing import Any

import pytest
import torch
from cases.masked_linear import CASES
from cases.rows import require
from torch import Tensor
from torch.nn import Sequential
from torch.utils._python_dispatch import TorchDispatchMode

from vlae_fast.backends import cpu
from vlae_fast.layers import MADE
from vlae_fast.masks import linear_mask
from vlae_fast.ops import masked_linear
from vlae_fast.reference.arguments import Mask

MASKS_KEPT = 32  # by csrc/cpu/masked_linear/structure.cpp


def dense(x: Tensor, weight: Tensor, live: Tensor, grad: Tensor) -> list[Tensor]:
    """The output without a bias, and the gradients of x and weight."""
    masked = weight * live
    return [x @ masked.T, grad @ masked, (grad.T @ x) * live]


def ours(x: Tensor, weight: Tensor, mask: Mask, grad: Tensor) -> list[Tensor]:
    y = cpu.masked_linear(x, weight, None, mask, "none")
    backward = cpu.masked_linear_backward(grad, None, x, weight, mask, "none", (True, True, False))
    return [y, *(g for g in backward if g is not None)]


def assert_close(got: list[Tensor], want: list[Tensor]) -> None:
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["degrees", "adjacency"])
def test_a_mask_that_is_changed_in_place_is_another_mask(kind: str) -> None:
    """What is kept of a mask belongs to its numbers, not to its tensor: no version counter has seen this write."""
    require("cpu")
    g = torch.Generator().manual_seed(0)
    x, weight, grad = (torch.randn(size, generator=g) for size in ((9, 40), (50, 40), (9, 50)))
    into, out = torch.arange(40), torch.arange(50)
    mask = Mask(into, out) if kind == "degrees" else Mask(None, None, linear_mask(into, out))
    for shift in (0, 7, -5, 0):
        if kind == "degrees":
            out.numpy()[:] = torch.arange(50).numpy() + shift
            live = linear_mask(into, out)
        else:
            live = linear_mask(into, torch.arange(50) + shift)
            mask.adjacency.numpy()[:] = live.numpy()
        assert_close(ours(x, weight, mask, grad), dense(x, weight, live, grad))


def test_more_masks_than_are_kept() -> None:
    require("cpu")
    g = torch.Generator().manual_seed(1)
    x, weight, grad = (torch.randn(size, generator=g) for size in ((3, 20), (33, 20), (3, 33)))
    masks = [Mask(torch.arange(20), torch.arange(33) - shift) for shift in range(MASKS_KEPT + 3)]
    for mask in masks + masks[::-1]:
        assert_close(ours(x, weight, mask, grad), dense(x, weight, linear_mask(*mask[:2]), grad))


def test_masks_of_one_content_and_two_shapes_are_two() -> None:
    """The degrees of a layer, one tensor after the other, are those of its neighbour too."""
    require("cpu")
    degrees = torch.arange(12)
    for inputs in (3, 8, 5):
        mask = Mask(degrees[:inputs].contiguous(), degrees[inputs:].contiguous())
        x, weight, grad = torch.randn(2, inputs), torch.randn(12 - inputs, inputs), torch.randn(2, 12 - inputs)
        assert_close(ours(x, weight, mask, grad), dense(x, weight, linear_mask(*mask[:2]), grad))


class Seen(TorchDispatchMode):
    """The names of the ops that a mode is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


class Watched(Tensor):
    """A subclass that changes nothing."""


def test_who_looks_at_a_call_sees_the_op() -> None:
    """A mode is shown both ops; a call that nobody sees has the same bits, with and without a gradient."""
    require("cpu")
    made, x = Sequential(*MADE(6, 40, 12).layers), torch.randn(5, 6, requires_grad=True)
    y = made(x)
    grads = torch.autograd.grad(y.sum(), [x, *made.parameters()])
    with Seen() as seen:
        same = made(x)
        same_grads = torch.autograd.grad(same.sum(), [x, *made.parameters()])
    assert seen.names.count("vlae_fast.masked_linear.default") == 3
    assert seen.names.count("vlae_fast.masked_linear_backward.default") == 3
    with torch.no_grad():
        assert made(x).equal(y)
    assert same.equal(y) and all(a.equal(b) for a, b in zip(grads, same_grads, strict=True))


def test_a_subclass_goes_through_the_dispatcher() -> None:
    require("cpu")
    made, x = MADE(6, 40, 12), torch.randn(5, 6)
    y = made(x.as_subclass(Watched))
    assert type(y) is Watched and y.as_subclass(Tensor).equal(made(x))


@pytest.mark.filterwarnings("ignore")  # the contract's checks are constants of a trace, which says so
@pytest.mark.parametrize("grad", [True, False])
def test_a_trace_has_the_op(grad: bool) -> None:
    t = CASES["plain"].tensors
    degrees = {name: t[name] for name in ("in_degrees", "out_degrees")}
    with torch.set_grad_enabled(grad):
        traced = torch.jit.trace(
            lambda x: masked_linear(x, t["weight"], t["bias"], **degrees), t["x"], check_trace=False
        )
        assert "vlae_fast::masked_linear" in str(traced.inlined_graph)
        x = torch.randn_like(t["x"])
        assert traced(x).equal(masked_linear(x, t["weight"], t["bias"], **degrees))
