"""masked_conv of the CPU library: instruction sets, any call, its own errors."""

import pytest
import torch
from cases.masked_conv import CALLS, CASES, case_of
from cases.properties import any_call, backend_of, dtypes, laid_out, use_isa
from cases.rows import require
from hypothesis import strategies as st

from vlae_fast.backends import cpu
from vlae_fast.testing import Case, check_op


@pytest.mark.parametrize("isa", cpu.isas() or ["absent"])
@pytest.mark.parametrize("case", [c for c in CASES.values() if c.tensors["x"].numel()], ids=str)
def test_every_instruction_set(case: Case, isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    require("cpu")
    use_isa(isa, monkeypatch)
    check_op(case, "cpu")


@any_call(**CALLS, dtype=dtypes, isa=st.sampled_from(cpu.isas() or ["absent"]))
def test_any_call(layout, dtype, isa, **call) -> None:
    require("cpu")
    with pytest.MonkeyPatch.context() as patch:
        use_isa(isa, patch)
        check_op(laid_out(case_of(**call).to(dtype), layout), backend_of(dtype), nudges=3)


NATIVE = {  # arguments of the library's own ops, forward and backward
    "x": torch.zeros(2, 5, 5, 4),
    "weight": torch.zeros(6, 4, 3, 3),
    "taps": (3, 0, -1, 4, 0, 0),
    "live": None,
    "activation": "none",
    "isa": "",
}


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"x": torch.zeros(2, 4, 5, 5)}, "x must have the C_in of weight, 4 channels, got 5"),
        ({"x": torch.zeros(2, 5, 5, 0), "weight": torch.zeros(6, 0, 3, 3)}, "x must have C_in >= 1, got 0"),
        ({"x": torch.zeros(2, 5, 5, 8)[..., ::2]}, r"x must be contiguous, got strides \(200, 40, 8, 2\)"),
        ({"x": torch.zeros(5, 5, 4)}, r"x must be \[B, H, W, C_in\], got \(5, 5, 4\)"),
        ({"x": torch.zeros(2, 5, 5, 4).double()}, "x must be float32"),
        ({"weight": torch.zeros(6, 4, 3, 5)}, r"weight must be \[P, C_in, k, k\] with k odd, got \(6, 4, 3, 5\)"),
        ({"weight": torch.zeros(5, 4, 3, 3), "activation": "gate"}, "weight must have an even P under.*got 5"),
        ({"bias": torch.zeros(5)}, r"bias must be \(6,\), got \(5,\)"),
        (
            {"cond": torch.zeros(2, 6, 5, 5)},
            r"cond must be \(2, 6\), \(2, 5, 5, 6\) or \(1, 5, 5, 6\), got \(2, 6, 5, 5\)",
        ),
        ({"taps": (0, 0)}, "taps must be triples of place, dy and dx, got 2 numbers"),
        ({"taps": (9, 0, 0)}, r"taps must have places of 0 to 8, got place 9 at \(0, 0\)"),
        ({"taps": (-1, 0, 0)}, r"taps must have places of 0 to 8, got place -1 at \(0, 0\)"),
        ({"taps": (4, 0, 5)}, r"taps must read within an image of 5 x 5, got place 4 at \(0, 5\)"),
        ({"taps": (4, -(1 << 63), 0)}, r"taps must read within.* 5 x 5, got place 4 at \(-9223372036854775808, 0\)"),
        (
            {"taps": (4, 0, 0, 3, 0, 1)},
            r"taps must be in raster order, got place 3 at \(0, 1\) behind place 4 at \(0, 0\)",
        ),
        ({"taps": (3, 0, 0, 4, 0, -1)}, r"taps must be in raster order, got place 4 at \(0, -1\) behind place 3"),
        ({"live": torch.ones(6, 4)}, "live must be bool"),
        ({"activation": "tanh"}, "activation must be one of none, .*, got tanh"),
        ({"with_sigmoid": True}, "with_sigmoid must be false without activation gate, got true"),
        ({"context": torch.zeros(2, 5, 5, 3)}, "context_weight must be given with context, and only with it, got None"),
        (
            {"context": torch.zeros(2, 5, 4, 3), "context_weight": torch.zeros(6, 3)},
            r"context must be \(2, 5, 5, 3\), got \(2, 5, 4, 3\)",
        ),
        (
            {"context": torch.zeros(2, 5, 5, 0), "context_weight": torch.zeros(6, 0)},
            r"context must be \[B, H, W, D\] with D >= 1, got \(2, 5, 5, 0\)",
        ),
        (
            {"context": torch.zeros(2, 5, 5, 3), "context_weight": torch.zeros(6, 4)},
            r"context_weight must be \(6, 3\), got \(6, 4\)",
        ),
        ({"residual": True}, "residual must be false unless C_in is C, 6, got C_in 4"),
        ({"isa": "mmx"}, "isa must be empty or one of .*got mmx"),
    ],
)
def test_errors_of_the_library(changed: dict, match: str) -> None:
    require("cpu")
    given = NATIVE | {"bias": None, "cond": None, "with_sigmoid": False} | changed
    with pytest.raises(RuntimeError, match=f"masked_conv: {match}"):
        torch.ops.vlae_fast_cpu.masked_conv(**given)


def test_errors_of_the_library_backward() -> None:
    require("cpu")
    grad = torch.zeros(2, 5, 5, 6)
    given = NATIVE | {"grad": grad, "out": None, "sigmoid": None, "needs": (1, 1, 1, 1, 0, 0), "cond_map": False}
    for changed, match in (
        ({"grad": torch.zeros(2, 6, 5, 5)}, r"grad must be \(2, 5, 5, 6\), got \(2, 6, 5, 5\)"),
        ({"activation": "elu"}, "out must be given with this activation, got None"),
        ({"activation": "elu", "out": grad[1:]}, r"out must be \(2, 5, 5, 6\), got \(1, 5, 5, 6\)"),
        ({"needs": (1, 1)}, "needs must have 6 entries, got 2"),
        ({"needs": (0, 0, 0, 0, 1, 0)}, "context must be given where its gradients are wanted, got None"),
    ):
        with pytest.raises(RuntimeError, match=f"masked_conv_backward: {match}"):
            torch.ops.vlae_fast_cpu.masked_conv_backward(**given | changed)
