"""What the Triton kernels of masked_conv are told of a mask."""

import pytest
import torch
from cases.rows import require

from vlae_fast.masks import MASK_TYPES, conv_taps
from vlae_fast.reference.arguments import ConvOptions
from vlae_fast.testing import check_op, conv_case


@pytest.fixture(autouse=True)
def _triton() -> None:
    require("triton", "cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("image_channels", [1, 3])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 3)])
@pytest.mark.parametrize("kernel_size", [(1, 1), (3, 3), (5, 3), (3, 7)])
@pytest.mark.parametrize("mask_type", MASK_TYPES)
def test_taps_are_the_first_of_a_raster(
    mask_type: str, kernel_size: tuple[int, int], dilation: tuple[int, int], image_channels: int
) -> None:
    from vlae_fast.kernels.taps import raster

    options = ConvOptions(mask_type, image_channels, dilation=dilation)
    for size in [(1, 1), (1, 9), (2, 2), (4, 3), (3, 30), (30, 30)]:
        taps = options.taps_inside(kernel_size, size)
        found = raster(taps)
        offsets = [
            (
                found.first_y + found.step_y * (t // found.per_row),
                found.first_x + found.step_x * (t % found.per_row),
            )
            for t in range(len(taps))
        ]
        assert offsets == [tap.offset for tap in taps]


def test_other_taps_are_refused() -> None:
    from vlae_fast.kernels.taps import raster

    taps = conv_taps("B", (3, 3))
    with pytest.raises(AssertionError, match="raster"):
        raster((*taps[:1], *taps[2:]))


@pytest.mark.parametrize(("channels", "columns"), [(64, 64), (100, 128), (160, 64), (256, 128)])
def test_gradient_of_x_in_wider_blocks(channels: int, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice as wide where that leaves no block empty; of 100 channels as of 128."""
    from vlae_fast.kernels import masked_conv_backward

    own, found = masked_conv_backward.blocks, []

    def blocks(*args: object, mirrored: bool) -> dict[str, int]:
        config = own(*args, mirrored=mirrored)
        found.extend([config["BN"]] if mirrored else [])
        return config

    monkeypatch.setattr(masked_conv_backward, "blocks", blocks)
    case = conv_case("B", (1, channels, 3, 2), 16, 3, activation="relu").to(torch.bfloat16)
    check_op(case, "triton")
    assert found == [columns]
