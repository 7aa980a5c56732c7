"""The table of cases: what is timed, and the arithmetic that cannot be avoided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch

import vlae_fast as vf
from vlae_fast.masks import linear_mask, live_taps, made_degrees
from vlae_fast.program import Stage


@dataclass(frozen=True)
class SamplingCase:
    """Draw ``batch`` images with a `PixelCNNDecoder` of random weights."""

    name: str
    batch: int
    decoder: dict[str, Any] = field(default_factory=dict)
    quick: bool = False
    naive_rows: int | None = None  # the naive sampler is timed on so many rows and scaled; None: on whole images

    def build(self) -> vf.PixelCNNDecoder:
        torch.manual_seed(0)
        decoder = vf.PixelCNNDecoder(**self.decoder).eval()
        for p in decoder.parameters():  # logits that are neither all certain nor all alike
            torch.nn.init.normal_(p, std=1.5 * p[0].numel() ** -0.5 if p.dim() > 1 else 0.2)
        return decoder


@dataclass(frozen=True)
class ConvCase:
    """`masked_conv`, forward or forward + backward (gradients of x, weight, bias)."""

    name: str
    mask_type: str
    batch: int
    c_in: int
    c_out: int  # of the weight: twice the output's under "gate"
    k: int
    size: int
    activation: str
    backward: bool = True
    quick: bool = False

    @property
    def flops(self) -> int:
        taps = len(live_taps(self.mask_type, (self.k, self.k)))
        return (6 if self.backward else 2) * self.batch * self.size**2 * taps * self.c_in * self.c_out


@dataclass(frozen=True)
class MadeCase:
    """A MADE with two parameters a dimension."""

    name: str
    batch: int
    dim: int
    hidden: tuple[int, ...]
    quick: bool = False

    @property
    def forward_flops(self) -> int:
        degrees = made_degrees(self.dim, self.hidden, 2)
        return 2 * self.batch * sum(int(linear_mask(i, o).sum()) for i, o in pairwise(degrees))


class LinearCase(MadeCase):
    """Its `masked_linear` layers, forward + backward (gradients of x, weights, biases)."""

    @property
    def flops(self) -> int:
        return 3 * self.forward_flops


class InverseCase(MadeCase):
    """`made_inverse` of the affine transform: each unit once, the work of one forward pass."""

    @property
    def flops(self) -> int:
        return self.forward_flops


@dataclass(frozen=True)
class TrainingCase:
    """One Adam step of a VLAE on a batch of 28x28 binary images."""

    name: str
    batch: int
    model: dict[str, Any] = field(default_factory=dict)
    quick: bool = False


SAMPLING = (
    SamplingCase("28x28-64ch-3gated-batch1", 1, quick=True),
    SamplingCase("28x28-64ch-3gated-batch16", 16, quick=True, naive_rows=2),
    SamplingCase("28x28-64ch-3gated-batch64", 64, naive_rows=1),
    SamplingCase("28x28-64ch-3gated-batch256", 256, naive_rows=1),
    SamplingCase("28x28-64ch-3gated-3x3first-batch1", 1, {"initial_kernel": 3}),
    SamplingCase("28x28-32ch-6gated-residual-batch1", 1, {"hidden_dim": 32, "n_layers": 6, "residual": True}),
)

LAYERS: tuple[ConvCase | LinearCase, ...] = (
    ConvCase("gated-3x3B-64ch-28x28-batch64", "B", 64, 64, 128, 3, 28, "gate", quick=True),
    ConvCase("gated-3x3B-64ch-28x28-batch64-forward", "B", 64, 64, 128, 3, 28, "gate", backward=False),
    ConvCase("gated-3x3B-160ch-32x32-batch16", "B", 16, 160, 320, 3, 32, "gate"),
    ConvCase("elu-3x3B-12ch-28x28-batch64", "B", 64, 12, 12, 3, 28, "elu"),
    ConvCase("7x7A-1to64ch-28x28-batch64", "A", 64, 1, 64, 7, 28, "none"),
    LinearCase("made-64-640-640-128-batch128", 128, 64, (640, 640), quick=True),
    LinearCase("made-64-640-640-128-batch1024", 1024, 64, (640, 640)),
    LinearCase("made-784-1024-1024-1568-batch256", 256, 784, (1024, 1024)),
)

FLOWS = (
    InverseCase("maf-64-2x512-batch64", 64, 64, (512, 512), quick=True),
    InverseCase("maf-64-2x512-batch1", 1, 64, (512, 512)),
    InverseCase("maf-784-2x1024-batch64", 64, 784, (1024, 1024)),
    InverseCase("maf-784-2x1024-batch1", 1, 784, (1024, 1024)),
    InverseCase("maf-784-2x1024-batch1024", 1024, 784, (1024, 1024)),
)

TRAINING = (TrainingCase("vlae-default-batch64", 64, quick=True),)

SUITES: dict[str, Sequence[Any]] = {"sampling": SAMPLING, "layers": LAYERS, "flows": FLOWS, "training": TRAINING}


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
