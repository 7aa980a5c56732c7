"""Products of the specification: a row's result is that of its own numbers, whatever lies behind it."""

from __future__ import annotations

import pytest
import torch

from vlae_fast import ops
from vlae_fast.reference.linear import linear

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("inputs", [11, 34, 97, 140])
def test_a_row_that_is_not_finite_and_what_lies_between_rows_stay_out_of_the_others(
    inputs: int, dtype: torch.dtype
) -> None:
    x, weight = torch.randn(35, inputs + 3).to(dtype), torch.randn(40, inputs).to(dtype)
    expected = linear(x[:, :inputs].clone(), weight)
    x[:, inputs:] = torch.nan
    assert linear(x[:, :inputs], weight).equal(expected)
    whole = x[:, :inputs].clone()
    whole[5] = torch.nan
    finite = linear(whole, weight).isfinite().all(1)
    assert finite.tolist() == [row != 5 for row in range(35)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_of_a_masked_layer_and_their_gradients(dtype: torch.dtype) -> None:
    """Of an odd number of inputs and of outputs: the product of the gradient has rows too."""
    degrees = torch.arange(11), torch.arange(13) % 11
    x, weight = torch.randn(6, 11).to(dtype).requires_grad_(), torch.randn(13, 11).to(dtype)
    cotangent = torch.randn(6, 13).to(dtype)
    cotangent[2] = torch.nan
    y = ops.masked_linear(x, weight, in_degrees=degrees[0], out_degrees=degrees[1], backend="reference")
    (grad,) = torch.autograd.grad(y, x, cotangent)
    assert grad.isfinite().all(1).tolist() == [row != 2 for row in range(6)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_taps_far_outside_of_the_image_take_no_memory(dtype: torch.dtype) -> None:
    """A dilation of 2^15 leaves the taps of the pixel's own row; forward and every gradient."""
    x = torch.randn(2, 3, 4, 5).to(dtype).requires_grad_()
    weight = torch.randn(4, 3, 3, 3).to(dtype).requires_grad_()
    near = torch.zeros_like(weight)
    near[:, :, 1] = weight.detach()[:, :, 1]
    near.requires_grad_()
    far = ops.masked_conv(x, weight, mask_type="B", dilation=(2**15, 1), backend="reference")
    own = ops.masked_conv(x, near, mask_type="B", backend="reference")
    assert far.equal(own)
    cotangent = torch.randn_like(far)
    theirs = torch.autograd.grad(far, (x, weight), cotangent)
    ours = torch.autograd.grad(own, (x, near), cotangent)
    assert theirs[0].allclose(ours[0], rtol=1e-2, atol=1e-2)
    assert theirs[1][:, :, 1].allclose(ours[1][:, :, 1], rtol=1e-2, atol=1e-2) and not theirs[1][:, :, ::2].any()
