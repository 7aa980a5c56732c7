"""made_sample in CUDA without a GPU: its sources compiled for the host, see cuda_host."""

import pytest
import torch
from cases.deadline import slow_where
from cases.made_sample import CASES, any_degrees

from vlae_fast.testing import Case, check_op, made_sample_case, run

pytestmark = pytest.mark.usefixtures("cuda")


@slow_where(lambda case: case.tensors["noise"].numel() > 1000)
@pytest.mark.parametrize("case", CASES.values(), ids=str)
def test_agrees_with_reference(case: Case) -> None:
    check_op(case, "cuda", grad=False)
    assert run(case, "cuda")[0][0].equal(run(case, "reference")[0][0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(dtype: torch.dtype) -> None:
    check_op(any_degrees(made_sample_case(5, 6, (12, 14), activation="elu", dtype=dtype)), "cuda", grad=False)
