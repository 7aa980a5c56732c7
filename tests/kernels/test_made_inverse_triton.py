"""made_inverse in Triton: blocks of any size, and the checks of every device."""

from collections.abc import Callable

import pytest
import torch
from cases.made_inverse_walks import CASE, CHECKS
from cases.rows import require

from vlae_fast.testing import Case, check_op, made_case


@pytest.fixture(autouse=True)
def _triton() -> None:
    require("triton")


@pytest.mark.parametrize(
    "blocks",
    [
        {"BM": 8, "BN": 16, "BK": 16, "S": 16},
        {"BM": 16, "BN": 32, "BK": 16, "S": 32},
        {"BM": 4, "BN": 16, "BK": 32, "S": 64},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "case",
    [CASE, made_case(5, 2, (21, 5), affine=False, activation="elu"), made_case(3, 7, (9,) * 5, activation="tanh")],
    ids=str,
)
def test_any_blocks(case: Case, blocks: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    from vlae_fast.kernels import launch

    monkeypatch.setattr(launch, "config", lambda *_: {**blocks, "num_warps": 4, "num_stages": 2})
    check_op(case, "triton", grad=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_several_blocks_of_the_shipped_size(dtype: torch.dtype) -> None:
    check_op(made_case(9, 20, (40, 70)).to(dtype), "triton", grad=False)


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_walk(check: Callable[[str], None]) -> None:
    check("triton")
