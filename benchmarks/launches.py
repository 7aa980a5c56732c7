"""Calls of the Triton row at the shapes that its kernels are made for: what `kernels` compiles and `tune` times."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

import vlae_fast as vf
from vlae_fast.backends import triton
from vlae_fast.masks import live_taps
from vlae_fast.models.likelihood import Bernoulli, Categorical, Likelihood, LogisticMixture
from vlae_fast.plan import Plan, Sites
from vlae_fast.reference.arguments import ConvOptions, Layers, Mask, Transform
from vlae_fast.sampling.program import Program
from vlae_fast.sampling.schedule import derive
from vlae_fast.testing import conv_case, linear_case, made_case, made_layers_case

Results = list[Tensor | None]
Launch = Callable[..., Callable[[], Results]]  # (dtype, device="cpu") -> what launches kernels and gives their results


def conv(
    mask_type: str,
    shape: tuple[int, int, int, int],
    p: int,
    k: int,
    activation: str,
    dtype: torch.dtype,
    device: str = "cpu",
    *,
    backward: bool = True,
) -> Callable[[], Results]:
    """Forward and backward of `masked_conv` with a condition per sample, every gradient; or the forward alone."""
    cond = "vector" if activation == "gate" else "none"
    case = conv_case(mask_type, shape, p, k, activation=activation, cond=cond, layout="channels_last", dtype=dtype)
    t = case.to(device=device).tensors
    args = (t["x"], t["weight"], t["bias"], t["cond"], ConvOptions(mask_type, activation=activation))
    generator = torch.Generator().manual_seed(0)
    channels = p // 2 if activation == "gate" else p
    grad = torch.randn(shape[0], *shape[2:], channels, generator=generator).to(device, dtype).permute(0, 3, 1, 2)

    def call() -> Results:
        out, sigmoid, _ = triton.masked_conv_with_sigmoid(*args, saves=backward)
        if not backward:
            return [out]
        needs = [True] * 3 + [t["cond"] is not None, False, False]
        return [out, *triton.masked_conv_backward(grad, out, sigmoid, *args, needs=needs)]

    return call


def linear(
    batch: int, inputs: int, outputs: int, adjacency: bool, activation: str, dtype: torch.dtype, device: str = "cpu"
) -> Callable[[], Results]:
    """Forward and backward of `masked_linear`, every gradient."""
    case = linear_case(batch, inputs, outputs, adjacency=adjacency, activation=activation, dtype=dtype)
    t = {"in_degrees": None, "out_degrees": None, "adjacency": None, **case.to(device=device).tensors}
    mask = Mask(t["in_degrees"], t["out_degrees"], t["adjacency"])
    grad = torch.randn(batch, outputs, generator=torch.Generator().manual_seed(0)).to(device, dtype)

    def call() -> Results:
        y = triton.masked_linear(t["x"], t["weight"], t["bias"], mask, activation)
        return [y, *triton.masked_linear_backward(grad, y, t["x"], t["weight"], mask, activation, [True] * 3)]

    return call


def made(
    batch: int, dim: int, hidden: tuple[int, ...], dtype: torch.dtype, device: str = "cpu", *, cond: bool = True
) -> Callable[[], Results]:
    """Forward and backward of `made`, with a condition or not, every gradient."""
    t = made_layers_case(batch, dim, hidden, cond=cond, dtype=dtype).to(device=device).tensors
    layers = Layers(t["weights"], t["biases"], t["degrees"], t.get("cond"))
    outputs = len(t["weights"][-1])
    grad = torch.randn(batch, outputs, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    needs = [True, cond, *[True] * (2 * len(layers.weights))]

    def call() -> Results:
        y, *kept = triton.made_with_hidden(t["x"], layers, "relu")
        return [y, *triton.made_backward(grad, t["x"], kept, layers, "relu", needs)]

    return call


def inverse(
    batch: int,
    dim: int,
    hidden: tuple[int, ...],
    activation: str,
    cond: bool,
    dtype: torch.dtype,
    device: str = "cpu",
    *,
    scale: str = "exp",
    namespace: Any = triton,
) -> Callable[[], Results]:
    """`made_inverse` of the affine transform, by a backend."""
    case = made_case(batch, dim, hidden, activation=activation, cond=cond, dtype=dtype).to(device=device)
    eps, *layers = case.tensors.values()
    return lambda: list(namespace.made_inverse(eps, Layers(*layers), Transform(activation, scale)))


def sample(
    batch: int, channels: int, dtype: torch.dtype, device: str = "cpu", *, likelihood: Likelihood | None = None
) -> Callable[[], Results]:
    """Draws from the default decoder's program at a number of channels, given the same z at every pixel.

    The noise is 0 or 1: it decides every pixel, and results of different block sizes differ by rounding only.
    """
    torch.manual_seed(0)
    likelihood = likelihood or Bernoulli(1)
    decoder = vf.PixelCNNDecoder(
        likelihood.channels, hidden_dim=channels, z_channels=0, likelihood=likelihood, backend="reference"
    ).to(device, dtype)
    sampler = vf.PixelCNNSampler(decoder, "reference")
    noise = torch.rand(batch, likelihood.noises, *decoder.image_size).round().to(device, dtype)
    z = torch.randn(batch, decoder.latent_dim).to(device, dtype)

    def call() -> Results:
        packed = triton.pixelcnn_pack(sampler.program.weights, sampler.plan)  # for the blocks of this launch
        return list(triton.pixelcnn_sample(noise, packed, sampler.plan, z, None, None, 1.0))

    return call


def sample_normed(
    batch: int, channels: int, dtype: torch.dtype, device: str = "cpu", *, halved: bool = False
) -> Callable[[], Results]:
    """Draws from a masked layer, a layer norm over its channels, and the logits, halved: of half the sides."""
    torch.manual_seed(0)
    program, size = Program(1), (28, 28)
    hidden = program.add([(0, torch.randn(channels, 1, 3, 3), live_taps("A", (3, 3)))], None, "relu")
    normed = program.norm(hidden, torch.rand(channels), torch.randn(channels), activation="silu", residual=hidden)
    if halved:
        normed = _halved(program, normed, channels)
    program.add([(normed, torch.randn(1, channels, 1, 1), ((0, 0),))])
    schedule = derive(program.stages, size)
    plan = Plan(1, schedule.slope, tuple(program.stages), schedule.leads)
    weights = [w.to(device, dtype) for w in program.weights]
    noise = torch.rand(batch, 1, *size).round().to(device, dtype)
    return lambda: list(triton.pixelcnn_sample(noise, triton.pixelcnn_pack(weights, plan), plan, None, None, None, 1.0))


def _halved(program: Program, buffer: int, channels: int) -> int:
    """Every second row and column of a buffer, and the buffer that the four phases of a transposed convolution fill."""
    half = program.add([(buffer, torch.randn(channels, channels, 1, 1), ((0, 0),))], None, "elu", sites=Sites(2, 0, 0))
    whole = -1
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
        source = (half, torch.randn(channels, channels, 3, 3), ((-i, -j),))
        written = program.add([source], sites=Sites(2, i, j), joins=whole)
        whole = written if whole < 0 else whole
    return whole


LAUNCHES: dict[str, Launch] = {  # where two share block sizes, the first decides them
    "conv-gated-3x3B-64ch": partial(conv, "B", (64, 64, 28, 28), 128, 3, "gate"),
    "conv-gated-3x3B-128ch": partial(conv, "B", (64, 128, 32, 32), 256, 3, "gate"),
    "conv-gated-3x3B-160ch": partial(conv, "B", (16, 160, 32, 32), 320, 3, "gate"),
    "conv-elu-3x3B-12ch": partial(conv, "B", (64, 12, 28, 28), 12, 3, "elu"),
    "conv-7x7A-1to64ch": partial(conv, "A", (64, 1, 28, 28), 64, 7, "none"),
    "linear-4096-4096": partial(linear, 4096, 4096, 4096, False, "relu"),
    "linear-4096-1568": partial(linear, 4096, 4096, 1568, False, "none"),
    "linear-4096-4096-adjacency": partial(linear, 4096, 4096, 4096, True, "elu"),
    "linear-640-640-batch128": partial(linear, 128, 640, 640, False, "relu"),
    "linear-32-64": partial(linear, 64, 32, 64, False, "tanh"),
    "made-64-640-640-128": partial(made, 128, 64, (640, 640)),
    "made-784-1024-1024-1568": partial(made, 256, 784, (1024, 1024)),
    "made-784-4096-4096-1568": partial(made, 4096, 784, (4096, 4096), cond=False),
    "inverse-784-512-512-relu": partial(inverse, 100, 784, (512, 512), "relu", False),
    "inverse-64-512-512-elu-cond": partial(inverse, 100, 64, (512, 512), "elu", True),
    "inverse-32-64-tanh": partial(inverse, 100, 32, (64,), "tanh", False),
    "inverse-32-64-clipped-exp": partial(inverse, 100, 32, (64,), "relu", False, scale="clipped_exp"),
    "inverse-32-64-softplus": partial(inverse, 100, 32, (64,), "relu", False, scale="softplus"),
    "inverse-32-64-sigmoid": partial(inverse, 100, 32, (64,), "relu", False, scale="sigmoid"),
    "sample-64ch": partial(sample, 4096, 64),
    "sample-64ch-batch1": partial(sample, 1, 64),
    "sample-256ch": partial(sample, 4096, 256),
    "sample-64ch-rgb-256levels": partial(sample, 256, 64, likelihood=Categorical(3)),
    "sample-64ch-rgb-mixture": partial(sample, 256, 64, likelihood=LogisticMixture(3)),
    "sample-64ch-rgb-mixture-cut": partial(sample, 256, 64, likelihood=LogisticMixture(3, 0)),
    "sample-64ch-norm": partial(sample_normed, 4096, 64),
    "sample-64ch-halved": partial(sample_normed, 4096, 64, halved=True),
}
