"""Calls of the Triton row at the shapes that its kernels are made for: what `benchmarks.kernels` compiles."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from vlae_fast import triton_kernels
from vlae_fast.testing import conv_case


def conv(
    mask_type: str, shape: tuple[int, int, int, int], c_out: int, k: int, activation: str, dtype: torch.dtype
) -> None:
    """Forward and backward of `masked_conv` with a condition per sample, every gradient."""
    cond = "vector" if activation == "gate" else "none"
    case = conv_case(mask_type, shape, c_out, k, activation=activation, cond=cond, layout="channels_last", dtype=dtype)
    t = case.tensors
    args = (t["x"], t["weight"], t["bias"], t["cond"], mask_type, 1, activation)
    out, saved = triton_kernels.masked_conv_saving(*args)
    grad = torch.empty_like(out)
    triton_kernels.masked_conv_backward(grad, out, saved, *args, needs=[True] * 3 + [t["cond"] is not None])


LAUNCHES: dict[str, Callable[[torch.dtype], None]] = {
    "conv-gated-3x3B-64ch": partial(conv, "B", (4, 64, 28, 28), 128, 3, "gate"),
    "conv-gated-3x3B-128ch": partial(conv, "B", (4, 128, 32, 32), 256, 3, "gate"),
    "conv-gated-3x3B-160ch": partial(conv, "B", (4, 160, 32, 32), 320, 3, "gate"),
    "conv-elu-3x3B-12ch": partial(conv, "B", (4, 12, 28, 28), 12, 3, "elu"),
    "conv-7x7A-1to64ch": partial(conv, "A", (4, 1, 28, 28), 64, 7, "none"),
}
