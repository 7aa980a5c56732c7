"""Work of the CUDA kernels whose cycles `cycle_model` finds: a turn of a stage, a draw, a unit of an inverse."""

from __future__ import annotations

from .cycle_model import Opcodes

# What a warp does from a barrier to the next, by kernel: a count of 0 says which code is not meant.
Work = dict[Opcodes, int]
_NO_OTHERS: Work = {"DFMA": 0, "MUFU.RSQ": 0, "STG": 0}  # no draw, no norm
_OF_32_BITS: Work = {**_NO_OTHERS, "CALL": 0, "LDG.E.U": 0}
_OF_16_BITS: Work = {**_NO_OTHERS, "CALL": 0, "LDG.E.U16": 0}
# What is located in a whole step is written 16 bytes at once (STS.128), in a section 4 bytes.
_IN_A_STEP: Work = {"STS.128": 0, "STS.64": 0}
_IN_A_SECTION: Work = {"STS.64": 0}


def _stages_of_16_bits(is_whole: bool) -> dict[str, Work]:
    """Of 64 channels: gates with a condition, which is in shared memory, a relu, and a sum with a residual.

    Loads of the weights of 24 tiles and of the biases of the next turn are in it. Those of conditions have a predicate:
    where a section is located, which reads shared memory too, they are in every turn.
    """
    ahead: Work = {"LDG.E.64": 1, "LDG.E.128": 24}
    around, stored = (
        ({**_OF_16_BITS, **_IN_A_STEP}, {}) if is_whole else ({**_OF_16_BITS, **_IN_A_SECTION}, _FOUR_APART)
    )

    def gate(taps: int, rows: int) -> Work:
        tiles = rows // 16
        conditions: Work = {"LDS.U16": 0, "LDS.64": 4 * tiles} if is_whole else {}
        outputs: Work = {"MUFU.TANH": 4 * tiles, "STS.U16": 4 * tiles}
        return {**around, **conditions, "HMMA": 8 * taps * tiles, **ahead, **outputs, **stored}

    plain: Work = {**around, "MUFU": 0, "LDS.S8": 0} | ({"LDS.64": 0, "LDS.U16": 0} if is_whole else {})
    joined: Work = {
        ("HMMA", "LDG.E.64", "LDG.E.128", "LDS$"): 8 + 1 + 24 + 5
    }  # LDS: of rows, and 4 pairs of a residual
    residual = {"residual of 64 channels, 1 tap, 16 rows": {**plain, **joined, "STS.U16": 8}}
    return {
        "gate of 64 channels, 1 tap, 16 rows": gate(1, 16),
        "gate of 64 channels, 5 taps, 16 rows": gate(5, 16),
        "gate of 64 channels, 5 taps, 32 rows": gate(5, 32),
        "relu of 64 channels, 1 tap, 16 rows": {**plain, "HMMA": 8, **ahead, "STS.U16": 8, **stored},
    } | (residual if is_whole else {})


def _stages_of_32_bits(is_whole: bool) -> dict[str, Work]:
    """The same in float32, where products are ten tiles of weights apart from the loads of others."""
    stores = 0 if is_whole else 4  # of 4 bytes beside those of outputs
    around = {**_OF_32_BITS, **(_IN_A_STEP if is_whole else _IN_A_SECTION)}

    def products(taps: int, tiles: int) -> Work:
        return {("HMMA", "LDG.E.128"): max(8 * taps, 20) + 24 * taps * tiles, "LDG.E.64": 1}

    def gate(taps: int, tiles: int) -> Work:
        conditions: Work = {"LDS.64": 2 * tiles} if is_whole else {}
        return {**around, **conditions, **products(taps, tiles), "FCHK": 2 * tiles, "STS$": 2 * tiles + stores}

    plain: Work = {**around, "MUFU": 0} | ({"LDS.64": 0} if is_whole else {})
    joined: Work = {
        ("HMMA", "LDG.E.128", "LDG.E.64", "LDS.64"): 20 + 24 + 1 + 4
    }  # LDS: of conditions, and of a residual
    residual = {"residual of 64 channels, 1 tap, 8 rows": {**around, "MUFU": 0, **joined, "STS$": 4}}
    return {
        "gate of 64 channels, 1 tap, 8 rows": gate(1, 1),
        **{f"gate of 64 channels, 5 taps, {8 * n} rows": gate(5, n) for n in (1, 2)},
        "relu of 64 channels, 1 tap, 8 rows": {**plain, **products(1, 1), "STS$": 4 + stores},
    } | (residual if is_whole else {})


def _draws(image: str, is_whole: bool) -> dict[str, Work]:
    """A pixel is drawn; what a warp without columns does; and passes of what is located, in a step before a draw."""
    nothing: Work = {"HMMA": 0, "STS": 0, "STG": 0, "LDG": 0}
    passes: Work = {"HMMA": 0, "MUFU.RCP64H": 0, "LDG": 0, "STG": 0, "STS.64": 2}
    pixel: Work = {"HMMA": 0, "LDG": 0, "MUFU.RCP64H": 1, "STG": 1, image: 1}
    if not is_whole:
        stores = pixel.get("STS$", 0)
        return {name: {**pixel, "STS$": stores + n} for name, n in (("a pixel, 1 pass", 4), ("a pixel, 2 passes", 8))}
    return {
        "a pixel": pixel,
        "no columns": {**nothing, "LDS": 0},
        "no columns, then a draw": {**nothing, "LDS": 2},
        "what is located, 1 pass": {**passes, "STS.128": 1},
        "what is located, 2 passes": {**passes, "STS.128": 2},
    }


_FOUR_APART: Work = {"STS$": 4}
EVENTS: dict[str, dict[str, Work]] = {
    f"pixelcnn_sample_sample_kernel<{name}, true, {str(is_whole).lower()}>": stages(is_whole) | _draws(image, is_whole)
    for name, stages, image in (
        ("__nv_bfloat16", _stages_of_16_bits, "STS.U16"),
        ("float", _stages_of_32_bits, "STS$"),
    )
    for is_whole in (True, False)
}
_OF_VALUES: Work = {"LDG": 0, "CALL": 0, "F2F": 0}  # the block's rows are at hand
_OF_UNITS: Work = {**_OF_VALUES, "MUFU": 0}  # relu or none
# The first event of a block and the next one are two loads each (LDS.128), weights one for each row; and a value is
# handed to all lanes (SHFL). A dimension hands out its shift, its scale and its noise.
_LOADS = ("SHFL", "LDS.128")
for samples, exchanged in ((1, 6), (2, 9)):  # in a tile; shuffles that add the lanes' sums
    EVENTS[f"made_inverse_inverse_kernel<float, {samples}>"] = {
        "4 rows, 256 values": {"FFMA": 32 * samples, "SHFL": exchanged},
        "4 rows, 512 values": {"FFMA": 64 * samples, "SHFL": exchanged},
        "a unit": _OF_UNITS | {"LDS.128": 2 + 3, "SHFL": 1},
        "2 units at once": _OF_UNITS | {"LDS.128": 2 + 6, "SHFL": 2},
        "4 units at once": _OF_UNITS | {"LDS.128": 2 + 6, "SHFL": 4},
        "a block's rows, then a unit": _OF_UNITS | {"LDG": 3, "SHFL": 1},
        "a dimension": _OF_VALUES | {_LOADS: 2 + 3 + 3, "MUFU.EX2": 1},
        "a unit, then a dimension": _OF_VALUES | {_LOADS: 2 + 3 + 1 + 3 + 3, "MUFU.EX2": 1},
    }
