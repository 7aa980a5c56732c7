"""The candidates of `benchmarks.tune`: a few configurations of each kernel beside the one in the table."""

from __future__ import annotations

Config = dict[str, int]


def listed(keys: str, *rows: str) -> list[Config]:
    return [dict(zip(keys.split(), map(int, row.split()), strict=True)) for row in rows]


CANDIDATES: dict[str, list[Config]] = {
    "masked_conv": listed(
        "BM BN BK num_warps num_stages",
        "128 64 64 4 3",
        "128 64 32 4 4",
        "128 64 64 8 4",
        "128 128 64 8 3",
        "256 64 64 8 3",
        "64 64 64 4 4",
        "64 64 32 4 4",
        "64 128 64 8 3",
        "128 32 32 4 4",
        "64 32 32 4 3",
        "32 64 64 4 4",
    ),
    "masked_conv_weight": listed(
        "BM BN BK num_warps num_stages",
        "64 64 64 4 4",
        "64 128 64 4 3",
        "32 128 64 4 4",
        "32 64 64 4 4",
        "32 64 32 4 3",
        "128 64 64 4 3",
        "64 128 128 8 3",
        "32 128 128 8 4",
        "64 256 64 8 3",
    ),
    "masked_linear": listed(
        "BM BN BK num_warps num_stages",
        "128 128 64 8 4",
        "128 128 64 4 4",
        "128 256 64 8 4",
        "128 256 64 8 3",
        "256 128 64 8 3",
        "128 128 128 8 3",
        "128 128 32 8 4",
        "128 64 64 4 4",
        "64 256 64 8 4",
        "64 128 64 4 4",
        "64 128 32 4 4",
        "64 64 64 4 4",
    ),
    "masked_linear_backward": listed(
        "BM BN BK BO BI BB num_warps num_stages",
        "128 128 64 128 128 64 8 4",
        "128 128 64 128 128 64 8 3",
        "128 256 64 128 256 64 8 4",
        "128 256 64 128 256 64 8 3",
        "256 128 64 256 128 64 8 3",
        "128 128 32 128 128 32 8 4",
        "128 64 64 128 64 64 4 4",
        "64 128 64 64 128 64 4 4",
        "64 128 32 64 128 32 4 4",
        "64 64 64 64 64 64 4 4",
    ),
    "made": listed(  # with more rows a program, fewer networks would be worth one launch: kernels/made.py
        "BN BK num_warps num_stages",
        "64 64 4 4",
        "64 64 8 4",
        "128 128 8 3",
        "128 64 8 3",
        "256 64 8 3",
        "128 32 8 4",
    ),
    "made_inverse": listed(
        "BM BN BK S num_warps num_stages",
        "8 64 64 64 4 3",
        "8 64 64 256 4 3",
        "8 64 128 128 4 2",
        "8 64 32 128 2 3",
        "8 64 64 128 8 3",
        "8 128 64 128 4 3",
        "8 32 64 128 4 3",
        "16 64 64 128 4 3",
        "16 64 64 64 4 3",
    ),
    "pixelcnn_sample": listed(
        "BM BN BK PER_SM num_warps num_stages maxnreg",
        "16 64 64 4 4 3 128",
        "16 128 64 2 4 3 255",
        "32 64 32 2 8 3 128",
        "32 64 64 2 4 3 255",
        "32 64 64 2 8 3 128",
        "32 128 32 2 4 4 255",
        "32 128 64 1 8 4 255",
        "32 128 64 2 8 3 128",
        "64 64 64 1 8 3 255",
        "64 64 64 2 4 3 255",
        "64 128 64 1 8 3 255",
        "128 64 64 1 8 3 255",
    ),
    "slope": listed("BM BN num_warps", "8 64 4", "32 64 4", "32 64 8", "16 128 4", "32 32 4", "64 16 4"),
}
