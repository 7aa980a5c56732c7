"""How far two outputs are from each other, where numbers are not finite."""

import math

import pytest
import torch

from vlae_fast.foreign.probe import difference

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("have", "want", "expected"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 2.5], [1.0, 2.0], 0.5 / 2.001),
        ([1.0, NAN], [1.0, 2.0], INF),
        ([1.0, INF], [1.0, 2.0], INF),
        ([1.0, 2.0], [1.0, NAN], 0.0),  # a dead weight times what is not finite was left out
        ([1.5, NAN], [1.0, NAN], 0.5 / 1.001),
        ([], [], 0.0),
        ([1.0], [1.0, 1.0], INF),
    ],
)
def test_difference(have: list[float], want: list[float], expected: float) -> None:
    assert difference(torch.tensor(have), torch.tensor(want)) == pytest.approx(expected, rel=1e-5)
