"""Calls of masked_conv that every backend must get right, by what each is there for."""

from typing import Any

from hypothesis import strategies as st

from cases.properties import layouts
from vlae_fast.masks import MASK_TYPES
from vlae_fast.testing import Case, conv_case

CASES = {
    "first layer": conv_case("A", (2, 1, 9, 7), 8, 7),
    "gate": conv_case("B", (2, 8, 9, 7), 16, 3, activation="gate", cond="vector"),
    "gate, channels last": conv_case("B", (1, 5, 6, 6), 6, 3, activation="gate", cond="map", layout="channels_last"),
    "elu, contiguous": conv_case("B", (3, 12, 8, 8), 12, 3, activation="elu", layout="contiguous"),
    "rgb": conv_case("A", (2, 3, 5, 5), 6, 5, activation="relu", image_channels=3),
    "rgb, gate": conv_case("B", (2, 6, 5, 4), 12, 3, activation="gate", image_channels=3, cond="vector"),
    "vertical A": conv_case("vertical_A", (2, 4, 6, 5), 4, 3),
    "vertical B": conv_case("vertical_B", (2, 4, 6, 5), 7, 5, activation="elu"),
    "no bias": conv_case("horizontal_A", (2, 4, 6, 5), 3, 3, bias=False),
    "horizontal B": conv_case("horizontal_B", (2, 4, 6, 5), 10, 7, activation="gate"),
    "one pixel": conv_case("B", (2, 4, 1, 1), 4, 3, activation="gate"),
    "1x1": conv_case("B", (1, 1, 1, 9), 1, 1),
    "expanded": conv_case("B", (4, 6, 5, 5), 6, 3, layout="expanded"),
    "batch of 0": conv_case("B", (0, 4, 5, 5), 4, 3, activation="gate", cond="vector"),
    "more channels than a block": conv_case("B", (2, 33, 7, 5), 34, 3, activation="gate", cond="vector"),
    "MNIST": conv_case("A", (3, 1, 28, 28), 64, 7),
    "more pixels than a block": conv_case("B", (2, 12, 17, 19), 12, 3, activation="elu"),
    "many channels": conv_case("B", (1, 160, 5, 6), 320, 3, activation="gate", cond="vector"),
    "whole blocks of channels": conv_case("B", (2, 64, 11, 13), 128, 3, activation="gate", cond="map"),
    "rgb, wide kernel": conv_case("A", (1, 3, 30, 31), 66, 9, activation="relu", image_channels=3, cond="map"),
    "vertical B, gate": conv_case("vertical_B", (2, 20, 7, 3), 48, 5, activation="gate"),
    "many inputs": conv_case("B", (1, 256, 3, 4), 33, 3, activation="elu", layout="channels_last"),
    "no live tap": conv_case("A", (2, 3, 1, 1), 4, 1, activation="elu", cond="vector"),
    "kernel larger than the image": conv_case("B", (2, 2, 4, 3), 6, 9, activation="gate"),
    "one row": conv_case("horizontal_B", (1, 7, 1, 40), 5, 9, activation="relu"),
    "dilated": conv_case("B", (2, 8, 9, 7), 16, 3, activation="gate", cond="vector", dilation=(2, 2)),
    "dilated to the sides": conv_case(
        "B", (1, 5, 9, 11), 6, 3, activation="elu", cond="map", dilation=(1, 3), layout="channels_last"
    ),
    "dilated, first layer": conv_case("A", (2, 1, 17, 13), 8, 7, dilation=(2, 2)),
    "dilated, rgb": conv_case("A", (1, 3, 12, 21), 12, 5, activation="relu", image_channels=3, dilation=(1, 3)),
    "dilated upwards, rgb, gate": conv_case(
        "B", (1, 3, 6, 9), 12, 3, activation="gate", image_channels=3, cond="vector", dilation=(3, 1)
    ),
    "dilated, vertical A": conv_case("vertical_A", (2, 4, 9, 8), 4, 3, dilation=(2, 2)),
    "dilated, vertical B": conv_case("vertical_B", (2, 20, 7, 8), 48, 5, activation="gate", dilation=(1, 3)),
    "dilated, horizontal A": conv_case("horizontal_A", (1, 4, 6, 15), 3, 3, bias=False, dilation=(1, 3)),
    "dilated, horizontal B": conv_case("horizontal_B", (2, 4, 6, 19), 10, 7, activation="gate", dilation=(2, 2)),
    "dilated, more channels than a block": conv_case(
        "B", (2, 33, 11, 9), 34, 3, activation="gate", cond="vector", dilation=(2, 2)
    ),
    "dilated, reaches further than the image": conv_case("B", (6, 2, 4, 3), 6, 9, activation="gate", dilation=(2, 2)),
    "dilated, some taps never in the image": conv_case("A", (1, 3, 2, 2), 6, 3, image_channels=3, dilation=(1, 3)),
    "dilated, no tap in the image": conv_case(
        "A", (2, 3, 1, 1), 4, 3, activation="elu", cond="vector", dilation=(2, 2)
    ),
    "context": conv_case("B", (2, 8, 9, 7), 16, 3, activation="gate", context=5),
    "context, first layer": conv_case("A", (2, 1, 9, 7), 8, 7, context=16, layout="contiguous"),
    "context, cond of each pixel, rgb": conv_case(
        "B", (2, 6, 5, 4), 12, 3, activation="gate", image_channels=3, cond="map", context=3
    ),
    "context, cond": conv_case("B", (2, 33, 7, 5), 34, 3, activation="elu", cond="vector", context=17),
    "context of many channels": conv_case("B", (1, 3, 6, 5), 7, 3, activation="relu", context=300),
    "context, whole blocks": conv_case("B", (2, 64, 11, 13), 128, 3, activation="gate", context=16),
    "context, few channels": conv_case("B", (2, 12, 17, 19), 12, 3, activation="elu", context=4),
    "context, no live tap": conv_case("A", (2, 3, 1, 1), 4, 1, activation="elu", context=2),
    "context, batch of 0": conv_case("B", (0, 4, 5, 5), 4, 3, activation="gate", context=2),
    "context, dilated": conv_case("B", (1, 5, 9, 11), 6, 3, context=3, dilation=(1, 3), layout="channels_last"),
    "residual": conv_case("B", (2, 8, 9, 7), 16, 3, activation="gate", context=5, cond="vector", residual=True),
    "residual, no activation": conv_case("B", (2, 12, 6, 5), 12, 3, residual=True, layout="channels_last"),
    "residual, relu": conv_case("B", (2, 33, 7, 5), 33, 3, activation="relu", residual=True),
    "residual, elu, rgb": conv_case("B", (1, 3, 9, 8), 3, 5, activation="elu", image_channels=3, residual=True),
    "residual, one channel": conv_case("B", (2, 1, 9, 7), 2, 3, activation="gate", residual=True),
    "residual, no live tap": conv_case("A", (2, 3, 1, 1), 6, 1, activation="gate", residual=True),
    "residual, batch of 0": conv_case("B", (0, 4, 5, 5), 8, 3, activation="gate", residual=True),
    "dilated by the most": conv_case("B", (1, 4, 3, 5), 4, 3, activation="gate", dilation=(1 << 15, 1 << 15)),
}

CALLS: dict[str, st.SearchStrategy] = {  # of any call: what `case_of` takes, and how its tensors lie in memory
    "mask_type": st.sampled_from(MASK_TYPES),
    "batch": st.integers(0, 3),
    "size": st.tuples(st.integers(1, 19), st.integers(1, 19)),
    "c_in": st.sampled_from([1, 2, 3, 12, 17, 33]),
    "channels": st.sampled_from([1, 3, 8, 12, 16, 31, 48]),
    "image_channels": st.sampled_from([1, 1, 1, 3]),
    "k": st.sampled_from([1, 3, 5, 7, 9]),
    "dilation": st.tuples(*[st.sampled_from([1, 1, 2, 3, 20])] * 2),
    "activation": st.sampled_from(["none", "relu", "elu", "gate"]),
    "cond": st.sampled_from(["none", "vector", "map"]),
    "context": st.sampled_from([0, 0, 1, 3, 16, 150]),
    "residual": st.booleans(),
    "bias": st.booleans(),
    "layout": layouts,
}


def case_of(
    mask_type: str, batch: int, size: tuple[int, int], c_in: int, channels: int, k: int, **options: Any
) -> Case:
    """A call with as many channels as the image's and a residual allow."""
    of_image = options["image_channels"]
    if options["residual"]:
        channels = max(1, c_in // of_image)
        c_in = channels * of_image
    p = channels * of_image * (2 if options["activation"] == "gate" else 1)
    return conv_case(mask_type, (batch, c_in, *size), p, k, **options)
