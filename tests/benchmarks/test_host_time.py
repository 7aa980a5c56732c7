"""How many kernels a step of the Triton row launches, each by name, and that launches can be left out."""

import pytest
from cases.rows import require

SLOPE = ["activation_backward_kernel", "parts_add_kernel"]  # of the activation, and the bias
KERNELS = {
    "masked_conv forward": ["masked_conv_pack_kernel", "masked_conv_forward_kernel"],
    "masked_conv forward + backward": [
        *("masked_conv_pack_kernel", "masked_conv_forward_kernel"),
        *("masked_conv_slope_kernel", "masked_conv_backward_kernel", "masked_conv_sums_kernel"),
    ],
    "masked_linear forward": ["masked_linear_forward_kernel"],
    "masked_linear forward + backward": ["masked_linear_forward_kernel", *SLOPE, "masked_linear_backward_kernel"],
    "made of 3 layers forward": ["made_forward_kernel"],
    "made of 3 layers forward + backward": [
        *("made_forward_kernel", "made_grad_x_kernel", "parts_add_kernel", "made_grad_weight_kernel"),
    ],
}


@pytest.fixture(autouse=True)
def _triton() -> None:
    require("triton")


def test_every_step_is_listed() -> None:
    from benchmarks.host_time import STEPS

    assert list(KERNELS) == list(STEPS)


@pytest.mark.parametrize("name", KERNELS)
def test_launches_of_a_step(name: str) -> None:
    from benchmarks.host_time import kernels_of

    assert kernels_of(name) == KERNELS[name]


def test_a_row_of_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import host_time

    monkeypatch.setattr(host_time, "BATCHES", 2)
    monkeypatch.setattr(host_time, "CALLS", 2)
    row = host_time.row_of("masked_linear forward")
    assert list(row) == host_time.COLUMNS and row["kernels"] == 1 and float(row["host_us"]) > 1
