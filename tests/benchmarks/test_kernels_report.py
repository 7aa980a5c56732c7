"""The report of kernels compiled ahead of time: what it calls an offence, and what it takes down of a launch."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cases.rows import require

GOOD = {"local_bytes": 0, "product": True, "dtype": "bfloat16", "matrix_instruction": "mma.sync"}


@pytest.fixture(autouse=True)
def _triton() -> None:
    require("triton")


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({}, None),
        ({"local_bytes": 8}, "spills: 8 bytes of local memory"),
        ({"matrix_instruction": ""}, "without a matrix instruction"),
        ({"matrix_instruction": "", "dtype": "float32"}, None),
        ({"matrix_instruction": "", "product": False}, None),
    ],
)
def test_offences(change: dict[str, Any], wrong: str | None) -> None:
    from benchmarks.kernels import offence

    found = offence(GOOD | change)
    assert found is None if wrong is None else wrong in found


def test_specialisation_of_a_launch() -> None:
    """Ones and None are constants; multiples of 16 and aligned pointers are known to be."""
    from benchmarks.kernels import source_of

    names = ["p_x", "p_bias", "N", "s", "BN", "B"]
    parameters = [
        SimpleNamespace(name=name, is_constexpr=name == "BN", do_not_specialize=name == "B") for name in names
    ]
    kernel = SimpleNamespace(params=parameters, arg_names=names, __name__="kernel")
    x = torch.zeros(64, dtype=torch.bfloat16)
    source = source_of(kernel, {"p_x": x, "p_bias": None, "N": 48, "s": 1, "BN": 32, "B": 1})
    assert source.signature == {
        "p_x": "*bf16",
        "p_bias": "constexpr",
        "N": "i32",
        "s": "constexpr",
        "BN": "constexpr",
        "B": "i32",
    }
    assert source.constants == {(1,): None, (3,): 1, (4,): 32}
    assert set(source.attrs) == {(0,), (2,)}
