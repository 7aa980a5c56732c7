"""Masks: the published patterns, and the degrees of a MADE."""

from itertools import pairwise

import pytest
import torch

from vlae_fast.masks import (
    MASK_TYPES,
    conv_mask,
    conv_taps,
    linear_mask,
    live_taps,
    made_degrees,
    same_padding,
)
from vlae_fast.reference.arguments import ConvOptions

ROWS = {
    "A": ["111", "100", "000"],
    "B": ["111", "110", "000"],
    "vertical_A": ["111", "000", "000"],
    "vertical_B": ["111", "111", "000"],
    "horizontal_A": ["000", "100", "000"],
    "horizontal_B": ["000", "110", "000"],
}


@pytest.mark.parametrize("mask_type", MASK_TYPES)
def test_conv_mask_3x3(mask_type: str) -> None:
    expected = torch.tensor([[c == "1" for c in row] for row in ROWS[mask_type]])
    assert conv_mask(mask_type, (5, 2, 3, 3)).equal(expected.expand(5, 2, 3, 3))


@pytest.mark.parametrize("mask_type", MASK_TYPES)
@pytest.mark.parametrize("k", [1, 3, 5, 7, 9])
def test_live_taps_are_the_mask(mask_type: str, k: int) -> None:
    mask = conv_mask(mask_type, (1, 1, k, k))[0, 0]
    assert [(i - k // 2, j - k // 2) for i, j in mask.nonzero().tolist()] == list(live_taps(mask_type, (k, k)))


@pytest.mark.parametrize("mask_type", MASK_TYPES)
@pytest.mark.parametrize("dilation", [(1, 1), (2, 2), (1, 3)])
def test_dilation_stretches_offsets_and_leaves_places(mask_type: str, dilation: tuple[int, int]) -> None:
    plain, dilated = conv_taps(mask_type, (5, 3)), conv_taps(mask_type, (5, 3), dilation)
    assert [tap.place for tap in dilated] == [tap.place for tap in plain]
    assert [tap.offset for tap in dilated] == [
        (dilation[0] * dy, dilation[1] * dx) for dy, dx in (tap.offset for tap in plain)
    ]
    assert live_taps(mask_type, (5, 3), dilation) == tuple(tap.offset for tap in dilated)
    assert same_padding((5, 3), dilation) == (2 * dilation[0], dilation[1])


@pytest.mark.parametrize(("image_channels", "last"), [(1, (0, -2)), (3, (0, 0))])
def test_taps_that_never_lie_in_the_image_are_left_out(image_channels: int, last: tuple[int, int]) -> None:
    options = ConvOptions("A", image_channels, dilation=(2, 2))
    every = options.taps_inside((3, 3), (9, 9))
    assert every[-1].offset == last and every[:4] == conv_taps("A", (3, 3), (2, 2))
    assert options.taps_inside((3, 3), (3, 3)) == every
    assert options.taps_inside((3, 3), (2, 9)) == tuple(tap for tap in every if tap.offset[0] == 0)
    assert options.taps_inside((3, 3), (2, 2)) == tuple(tap for tap in every if tap.offset == (0, 0))


def test_rgb_centre() -> None:
    a, b = (conv_mask(t, (6, 3, 3, 3), image_channels=3)[:, :, 1, 1] for t in "AB")
    lower = torch.ones(3, 3).tril(-1).bool()
    assert a.equal(torch.cat([lower, lower])) and b.equal(torch.cat([lower | torch.eye(3).bool()] * 2))
    assert conv_mask("A", (6, 3, 3, 3), image_channels=3)[:, :, 0].all()


@pytest.mark.parametrize("dim", [1, 2, 5, 64])
@pytest.mark.parametrize("hidden", [(1,), (3, 7), (100, 64, 32)])
def test_made_is_autoregressive(dim: int, hidden: tuple[int, ...]) -> None:
    degrees = made_degrees(dim, hidden, 2)
    reach = torch.eye(dim, dtype=torch.float64)
    for i, o in pairwise(degrees):
        reach = linear_mask(i, o).double() @ reach
        assert (o.diff() >= 0).all() or o is degrees[-1]
    for k in range(2 * dim):
        assert not reach[k, k % dim :].any()
    if min(hidden) >= dim - 1:  # with a unit of every degree nothing that may be seen is lost
        assert all(reach[k, : k % dim].all() for k in range(2 * dim))


@pytest.mark.parametrize(
    ("mask_type", "kernel", "match"),
    [
        ("C", (3, 3), "live_taps: mask_type must be one of A, B.*got 'C'"),
        ("A", (4, 4), r"kernel_size must be odd.*got \(4, 4\)"),
    ],
)
def test_errors(mask_type: str, kernel: tuple[int, int], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        live_taps(mask_type, kernel)
