"""Calls of the Triton row at the shapes that its kernels are made for: what `benchmarks.kernels` compiles."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

import vlae_fast as vf
from vlae_fast import triton_kernels
from vlae_fast.testing import conv_case, linear_case, made_case


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


def linear(batch: int, inputs: int, outputs: int, adjacency: bool, activation: str, dtype: torch.dtype) -> None:
    """Forward and backward of `masked_linear`, every gradient."""
    case = linear_case(batch, inputs, outputs, adjacency=adjacency, activation=activation, dtype=dtype)
    t = {"in_degrees": None, "out_degrees": None, "adjacency": None, **case.tensors}
    mask = (t["in_degrees"], t["out_degrees"], t["adjacency"], activation)
    y = triton_kernels.masked_linear(t["x"], t["weight"], t["bias"], *mask)
    triton_kernels.masked_linear_backward(torch.empty_like(y), y, t["x"], t["weight"], *mask, needs=[True] * 3)


def sample(batch: int, channels: int, dtype: torch.dtype) -> None:
    """Draws from the default decoder's program at a number of channels."""
    decoder = vf.PixelCNNDecoder(hidden_dim=channels, backend="reference")
    sampler = vf.PixelCNNSampler(decoder.to(dtype), "reference")
    noise, z = torch.empty(batch, 1, *decoder.image_size, dtype=dtype), torch.empty(batch, 32, dtype=dtype)
    packed = triton_kernels.pixelcnn_pack(sampler.program.weights, sampler.plan)
    triton_kernels.pixelcnn_sample(noise, packed, sampler.plan, z, None, None, 1.0)


def inverse(dim: int, hidden: tuple[int, ...], activation: str, cond: bool, dtype: torch.dtype) -> None:
    """`made_inverse` of the affine transform."""
    case = made_case(4, dim, hidden, activation=activation, cond=cond, dtype=dtype)
    triton_kernels.made_inverse(*case.tensors.values(), activation)


LAUNCHES: dict[str, Callable[[torch.dtype], None]] = {
    "conv-gated-3x3B-64ch": partial(conv, "B", (4, 64, 28, 28), 128, 3, "gate"),
    "conv-gated-3x3B-128ch": partial(conv, "B", (4, 128, 32, 32), 256, 3, "gate"),
    "conv-gated-3x3B-160ch": partial(conv, "B", (4, 160, 32, 32), 320, 3, "gate"),
    "conv-elu-3x3B-12ch": partial(conv, "B", (4, 12, 28, 28), 12, 3, "elu"),
    "conv-7x7A-1to64ch": partial(conv, "A", (4, 1, 28, 28), 64, 7, "none"),
    "linear-4096-4096": partial(linear, 4096, 4096, 4096, False, "relu"),
    "linear-4096-1568": partial(linear, 4096, 4096, 1568, False, "none"),
    "linear-4096-4096-adjacency": partial(linear, 4096, 4096, 4096, True, "elu"),
    "linear-640-640-batch128": partial(linear, 128, 640, 640, False, "relu"),
    "linear-32-64": partial(linear, 64, 32, 64, False, "tanh"),
    "inverse-784-512-512-relu": partial(inverse, 784, (512, 512), "relu", False),
    "inverse-64-512-512-elu-cond": partial(inverse, 64, (512, 512), "elu", True),
    "inverse-32-64-tanh": partial(inverse, 32, (64,), "tanh", False),
    "sample-64ch-batch1": partial(sample, 1, 64),
    "sample-64ch": partial(sample, 4096, 64),
    "sample-256ch": partial(sample, 4096, 256),
}
