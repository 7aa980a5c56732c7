"""Any call of an op: tensors laid out in memory in every way, and how many examples of such calls are tried."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from vlae_fast.backends import cpu
from vlae_fast.testing import Case


def dense(tensor: Tensor) -> Tensor:
    return tensor.contiguous()


def transposed(tensor: Tensor) -> Tensor:
    return tensor.permute(*reversed(range(tensor.dim()))).contiguous().permute(*reversed(range(tensor.dim())))


def channels_last(tensor: Tensor) -> Tensor:
    return tensor.movedim(1, -1).contiguous().movedim(-1, 1) if tensor.dim() > 2 else tensor.contiguous()


def spaced(tensor: Tensor) -> Tensor:
    """Gaps behind every element of every dimension and an offset; who reads there reads NaN, or 77."""
    poison = torch.nan if tensor.is_floating_point() else 77
    storage = torch.full([2 * size + 3 for size in tensor.shape], poison, dtype=tensor.dtype)
    view = storage[tuple(slice(3, None, 2) for _ in tensor.shape)]
    return view.copy_(tensor)


def expanded(tensor: Tensor) -> Tensor:
    """One value along the first dimension."""
    return tensor[:1].expand(tensor.shape) if tensor.numel() else tensor


def overlapping(tensor: Tensor) -> Tensor:
    """Every stride 1: elements share memory."""
    return tensor.contiguous().as_strided(tensor.shape, (1,) * tensor.dim()) if tensor.numel() else tensor


LAYOUTS = (dense, transposed, channels_last, spaced, expanded, overlapping)
SAME_VALUES = (dense, spaced)  # of degrees, which must stay a permutation
DIFFERENTIABLE = (
    "masked_conv",
    "masked_conv_with_sigmoid",
    "masked_conv_backward",
    "masked_linear",
    "masked_linear_backward",
    "made_inverse",
)
Layouts = tuple[Callable[[Tensor], Tensor], ...]
layouts = st.tuples(*[st.sampled_from(LAYOUTS)] * 4)
dtypes = st.sampled_from([torch.float32] * 7 + [torch.float64, torch.bfloat16, torch.float16])


def backend_of(dtype: torch.dtype) -> str:
    """The CPU library where it must be able; where it need not, whatever is."""
    return "cpu" if dtype == torch.float32 else "auto"


def laid_out(case: Case, chosen: Layouts) -> Case:
    """The case with its tensors in the chosen layouts, in turn."""

    def lay(tensor: Tensor, i: int) -> Tensor:
        layout = chosen[i % len(chosen)]
        if not tensor.is_floating_point() and layout not in SAME_VALUES:
            layout = spaced
        return layout(tensor)

    tensors = {}
    for i, (name, value) in enumerate(case.tensors.items()):
        if isinstance(value, list):
            tensors[name] = [lay(tensor, i + j) for j, tensor in enumerate(value)]
        else:
            tensors[name] = None if value is None else lay(value, i)
    names = "-".join(layout.__name__ for layout in chosen)
    return Case(f"{case.name}-{names}", case.op, tensors, case.options)


def use_isa(isa: str, patch: pytest.MonkeyPatch) -> None:
    """Every op of the CPU library runs on this instruction set."""
    for name in DIFFERENTIABLE:
        patch.setattr(cpu, name, partial(getattr(cpu, name), isa=isa))


def any_call(**strategies: st.SearchStrategy) -> Callable[[Callable], Callable]:
    """A test of one call, made a test of some dozens of them, and of many under the mark slow. Always the same ones."""

    def decorate(check: Callable) -> Callable:
        @pytest.mark.parametrize("examples", [60, pytest.param(800, marks=pytest.mark.slow)])
        def test(examples: int) -> None:
            slow = [HealthCheck.too_slow]  # a machine that is emulated or shared, and no fault of the strategies
            chosen = settings(
                max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=slow
            )
            chosen(given(**strategies)(check))()

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        return test

    return decorate
