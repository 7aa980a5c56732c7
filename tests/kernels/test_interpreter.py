"""What interprets the kernels in tests: quicker than Triton's own, and of the same results."""

import pytest
import torch
from cases.interpreter import as_it_is
from cases.rows import is_interpreted, require

from vlae_fast.testing import Case, conv_case, made_case, run


@pytest.mark.parametrize(
    "case",
    [
        conv_case("B", (1, 3, 4, 3), 10, 3, activation="gate", cond="map"),
        conv_case("A", (2, 2, 3, 3), 5, 3, activation="elu", dtype=torch.bfloat16),
        made_case(3, 5, (9,)),
    ],
    ids=str,
)
def test_results_are_those_of_the_interpreter_as_it_is(case: Case) -> None:
    require("triton", "cpu")
    assert is_interpreted("triton")

    def results() -> list[torch.Tensor]:
        outs, _ = run(case, "triton", poisoned=False)
        if case.op == "made_inverse":
            return outs
        return [*outs, *run(case, "triton", [torch.ones_like(out) for out in outs], poisoned=False)[1]]

    quick = results()
    with as_it_is():
        expected = results()
    assert len(quick) == len(expected) >= 2
    assert all(a.equal(b) for a, b in zip(quick, expected, strict=True))
