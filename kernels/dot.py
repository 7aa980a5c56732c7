"""The matrix product of two blocks."""

import os

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def dot(b_left, b_right, b_sum, PRECISION: tl.constexpr):
    """``b_sum + b_left b_right`` in float32."""
    if INTERPRETED:  # the interpreter would multiply the bits of bfloat16 as integers
        b_left = b_left.to(tl.float32)
        b_right = b_right.to(tl.float32)
    return tl.dot(b_left, b_right, b_sum, input_precision=PRECISION)
