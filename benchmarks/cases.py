"""The table of cases: what is timed, and the arithmetic and the traffic that cannot be avoided.

``flops`` counts live weights only. ``bytes`` counts, for each pass, its inputs and live weights read once and its
outputs written once, in the case's dtype; what a forward keeps for its backward is not in it. ``op_cases`` are the same
shapes in a smaller batch, which the tests and every run hold to the reference. A ``dtype`` is a name of torch's, or
``tf32``: float32 whose products may be rounded to TF32 first, which is PyTorch's own setting for convolutions on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

import vlae_fast as vf
from vlae_fast import testing
from vlae_fast.masks import linear_mask, live_taps, made_degrees
from vlae_fast.plan import Stage
from vlae_fast.sampling.program import build_program


def torch_dtype(dtype: str) -> torch.dtype:
    """The dtype of a case's tensors."""
    return torch.float32 if dtype == "tf32" else getattr(torch, dtype)


def traffic(x: int, live: int, weights: int, y: int, dtype: str, *, backward: bool) -> int:
    """Bytes of a forward pass, or of both, from the sizes of the input, the live weights, all weights and the output.

    The backward reads the output's gradient, the input and the live weights, and writes the gradients of the input and
    of all weights (zeros for the dead ones).
    """
    return torch_dtype(dtype).itemsize * ((x + live + y) + (y + x + live + x + weights if backward else 0))


@dataclass(frozen=True)
class SamplingCase:
    """Draw ``batch`` images with a `PixelCNNDecoder` of random weights, given the same z at every pixel."""

    name: str
    batch: int
    decoder: dict[str, Any] = field(default_factory=dict)
    quick: bool = False
    naive_rows: int | None = None  # the naive sampler is timed on so many rows and scaled; None: on whole images
    dtype: str = "float32"
    held: str | None = None  # in what our sampler holds weights and activations, where that is another dtype

    def build(self) -> vf.PixelCNNDecoder:
        torch.manual_seed(0)
        decoder = vf.PixelCNNDecoder(**{"z_channels": 0, **self.decoder}).eval()
        for p in decoder.parameters():  # logits that are neither all certain nor all alike
            torch.nn.init.normal_(p, std=1.5 * p[0].numel() ** -0.5 if p.dim() > 1 else 0.2)
        return decoder

    @property
    def flops(self) -> int:
        decoder = self.build()
        return self.batch * live_flops(build_program(decoder).stages, decoder.input_dim, decoder.image_size)

    @property
    def bytes(self) -> int:
        """Noise and z in, images out; the caches could stay in the processor's."""
        decoder = self.build()
        image = decoder.input_dim * decoder.image_size[0] * decoder.image_size[1]
        weights = sum(weight.numel() for weight in build_program(decoder).weights)
        return torch_dtype(self.dtype).itemsize * (self.batch * (2 * image + decoder.latent_dim) + weights)


@dataclass(frozen=True)
class ConvCase:
    """`masked_conv`, forward or forward + backward (gradients of x, weight, bias)."""

    name: str
    mask_type: str
    batch: int
    c_in: int
    p: int  # channels before the activation: twice the output's under "gate"
    k: int
    size: int
    activation: str
    backward: bool = True
    quick: bool = False
    dtype: str = "float32"

    @property
    def live(self) -> int:
        return len(live_taps(self.mask_type, (self.k, self.k))) * self.c_in * self.p

    @property
    def flops(self) -> int:
        return (6 if self.backward else 2) * self.batch * self.size**2 * self.live

    @property
    def bytes(self) -> int:
        pixels, bias = self.batch * self.size**2, self.p
        out = pixels * self.p // (2 if self.activation == "gate" else 1)
        weights = self.k**2 * self.c_in * self.p
        return traffic(pixels * self.c_in, self.live + bias, weights + bias, out, self.dtype, backward=self.backward)

    def op_cases(self, batch: int = 2) -> list[testing.Case]:
        shape = (batch, self.c_in, self.size, self.size)
        return [testing.conv_case(self.mask_type, shape, self.p, self.k, activation=self.activation)]


@dataclass(frozen=True)
class MadeCase:
    """A MADE with two parameters a dimension."""

    name: str
    batch: int
    dim: int
    hidden: tuple[int, ...]
    quick: bool = False
    dtype: str = "float32"

    @property
    def degrees(self) -> list[Tensor]:
        return made_degrees(self.dim, self.hidden, 2)

    @property
    def live(self) -> int:
        return sum(int(linear_mask(i, o).sum()) for i, o in pairwise(self.degrees))

    @property
    def biases(self) -> int:
        return sum(self.hidden) + 2 * self.dim


@dataclass(frozen=True)
class LinearCase(MadeCase):
    """Its layers by `made`, forward + backward (gradients of x, weights, biases) or forward alone."""

    backward: bool = True

    @property
    def flops(self) -> int:
        return (6 if self.backward else 2) * self.batch * self.live

    @property
    def bytes(self) -> int:
        x, weights = self.batch * self.dim, sum(len(i) * len(o) for i, o in pairwise(self.degrees))
        return traffic(x, self.live + self.biases, weights + self.biases, 2 * x, self.dtype, backward=self.backward)

    def op_cases(self, batch: int = 16) -> list[testing.Case]:
        """A budget is twice the reference's largest error, which a row or two do not bring to light."""
        activations = ["relu"] * len(self.hidden) + ["none"]
        cases = [testing.made_layers_case(batch, self.dim, self.hidden)]
        for (i, o), activation in zip(pairwise(self.degrees), activations, strict=True):
            case = testing.linear_case(batch, len(i), len(o), activation=activation)
            tensors = case.tensors | {"in_degrees": i, "out_degrees": o}
            cases.append(testing.Case(case.name, case.op, tensors, case.options))
        return cases


class InverseCase(MadeCase):
    """`made_inverse` of the affine transform: each unit once, the work of one forward pass."""

    @property
    def flops(self) -> int:
        return 2 * self.batch * self.live

    @property
    def bytes(self) -> int:
        x, weights = self.batch * self.dim, self.live + self.biases
        return traffic(x, weights, weights, x + self.batch, self.dtype, backward=False)

    def op_cases(self, batch: int = 16) -> list[testing.Case]:
        """A log-determinant is a number a sample: of four, the reference may be lucky with all."""
        return [testing.made_case(batch, self.dim, self.hidden)]


@dataclass(frozen=True)
class TrainingCase:
    """One Adam step of a VLAE on a batch of 28x28 binary images; its work is not counted.

    z is the same at every pixel, unless the model says how many channels its map has.

    In 16 bits it is a step under autocast, the weights in float32.
    """

    flops: ClassVar[float] = float("nan")
    bytes: ClassVar[float] = float("nan")

    name: str
    batch: int
    model: dict[str, Any] = field(default_factory=dict)
    quick: bool = False
    dtype: str = "float32"


BF16, TF32 = {"dtype": "bfloat16"}, {"dtype": "tf32"}

SAMPLING = (
    SamplingCase("28x28-64ch-3gated-batch1", 1, quick=True),
    SamplingCase("28x28-64ch-3gated-batch16", 16, quick=True, naive_rows=2),
    SamplingCase("28x28-64ch-3gated-batch64", 64, naive_rows=1),
    SamplingCase("28x28-64ch-3gated-batch256", 256, naive_rows=1),
    SamplingCase("28x28-64ch-3gated-batch16-held-bf16", 16, naive_rows=1, held="bfloat16"),
    SamplingCase("28x28-64ch-3gated-batch64-held-bf16", 64, naive_rows=1, held="bfloat16"),
    SamplingCase("28x28-64ch-3gated-3x3first-batch1", 1, {"initial_kernel": 3}),
    SamplingCase("28x28-32ch-6gated-residual-batch1", 1, {"hidden_dim": 32, "n_layers": 6, "residual": True}),
)

LAYERS: tuple[ConvCase | LinearCase, ...] = (
    ConvCase("gated-3x3B-64ch-28x28-batch64", "B", 64, 64, 128, 3, 28, "gate", quick=True),
    ConvCase("gated-3x3B-64ch-28x28-batch64-forward", "B", 64, 64, 128, 3, 28, "gate", backward=False),
    ConvCase("gated-3x3B-160ch-32x32-batch16", "B", 16, 160, 320, 3, 32, "gate"),
    ConvCase("elu-3x3B-12ch-28x28-batch64", "B", 64, 12, 12, 3, 28, "elu"),
    ConvCase("7x7A-1to64ch-28x28-batch64", "A", 64, 1, 64, 7, 28, "none"),
    ConvCase("gated-3x3B-64ch-28x28-batch64-cpu-bf16", "B", 64, 64, 128, 3, 28, "gate", **BF16),
    ConvCase("gated-3x3B-160ch-32x32-batch16-cpu-bf16", "B", 16, 160, 320, 3, 32, "gate", **BF16),
    ConvCase("7x7A-1to64ch-28x28-batch64-cpu-bf16", "A", 64, 1, 64, 7, 28, "none", **BF16),
    LinearCase("made-64-640-640-128-batch128", 128, 64, (640, 640), quick=True),
    LinearCase("made-64-640-640-128-batch1-forward", 1, 64, (640, 640), backward=False),
    LinearCase("made-64-640-640-128-batch128-forward", 128, 64, (640, 640), backward=False),
    LinearCase("made-64-640-640-128-batch1024", 1024, 64, (640, 640)),
    LinearCase("made-784-1024-1024-1568-batch256", 256, 784, (1024, 1024)),
)

FLOWS = (
    InverseCase("maf-64-2x512-batch64", 64, 64, (512, 512), quick=True),
    InverseCase("maf-64-2x512-batch1", 1, 64, (512, 512)),
    InverseCase("maf-784-2x1024-batch64", 64, 784, (1024, 1024)),
    InverseCase("maf-784-2x1024-batch1", 1, 784, (1024, 1024)),
    InverseCase("maf-784-2x1024-batch1024", 1024, 784, (1024, 1024)),
    InverseCase("maf-784-2x1024-batch1024-bf16", 1024, 784, (1024, 1024), dtype="bfloat16"),
)

MNIST = {"hidden_dim": 32, "n_layers": 4, "residual": True, "z_channels": 16}  # the decoder of the model that ships
TRAINING = (
    TrainingCase("vlae-default-batch64", 64, quick=True),
    TrainingCase("vlae-code-map-batch64", 64, {"z_channels": 16}),
    TrainingCase("vlae-mnist-batch64", 64, MNIST),
    TrainingCase("vlae-mnist-batch64-cpu-bf16", 64, MNIST, **BF16),
)

GPU: tuple[Any, ...] = (  # in the order of what they are worth: the time may not suffice for the last ones
    ConvCase("gated-3x3B-128ch-32x32-batch128-bf16", "B", 128, 128, 256, 3, 32, "gate", **BF16),
    ConvCase("gated-3x3B-128ch-32x32-batch128-bf16-forward", "B", 128, 128, 256, 3, 32, "gate", False, **BF16),
    ConvCase("gated-3x3B-64ch-28x28-batch64-bf16", "B", 64, 64, 128, 3, 28, "gate", **BF16),
    SamplingCase("28x28-64ch-3gated-batch1-tf32", 1, naive_rows=4, **TF32),
    SamplingCase("28x28-64ch-3gated-batch4096-tf32", 4096, naive_rows=1, **TF32),
    InverseCase("maf-784-2x512-batch100", 100, 784, (512, 512)),
    LinearCase("made-784-4096-4096-1568-batch4096-bf16", 4096, 784, (4096, 4096), **BF16),
    TrainingCase("vlae-default-batch256-bf16", 256, **BF16),
    SamplingCase("28x28-64ch-3gated-batch64-tf32", 64, naive_rows=2, **TF32),
    InverseCase("maf-64-2x512-batch100", 100, 64, (512, 512)),
    ConvCase("elu-3x3B-12ch-28x28-batch64-bf16", "B", 64, 12, 12, 3, 28, "elu", **BF16),
    ConvCase("7x7A-1to64ch-28x28-batch64-bf16", "A", 64, 1, 64, 7, 28, "none", **BF16),
    ConvCase("elu-3x3B-12ch-28x28-batch64-tf32", "B", 64, 12, 12, 3, 28, "elu", **TF32),
    ConvCase("7x7A-1to64ch-28x28-batch64-tf32", "A", 64, 1, 64, 7, 28, "none", **TF32),
    SamplingCase("28x28-64ch-3gated-batch1-float32", 1, naive_rows=4),
    SamplingCase("28x28-64ch-3gated-batch4096-float32", 4096, naive_rows=1),
    ConvCase("elu-3x3B-12ch-28x28-batch64-float32", "B", 64, 12, 12, 3, 28, "elu"),
    ConvCase("7x7A-1to64ch-28x28-batch64-float32", "A", 64, 1, 64, 7, 28, "none"),
    SamplingCase("28x28-64ch-3gated-batch4096-bf16", 4096, naive_rows=1, **BF16),
)

CPU_SUITES: dict[str, Sequence[Any]] = {"sampling": SAMPLING, "layers": LAYERS, "flows": FLOWS, "training": TRAINING}
SUITES = {**CPU_SUITES, "gpu": GPU}


def live_flops(stages: Sequence[Stage], image_channels: int, size: tuple[int, int]) -> int:
    """Floating-point operations of one image: two per live weight and pixel, the context's once per image."""
    channels = [image_channels]
    total = 0
    for stage in stages:
        columns = stage.out_channels * (2 if stage.activation == "gate" else 1)
        total += 2 * columns * sum(channels[s.buffer] * len(s.taps) for s in stage.sources) * size[0] * size[1]
        total += 2 * columns * stage.context_dim
        channels.append(stage.out_channels)
    return total
