"""The table of cases: what is timed, and the arithmetic that cannot be avoided."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

import vlae_fast as vf
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


SAMPLING = (
    SamplingCase("28x28-64ch-3gated-batch1", 1, quick=True),
    SamplingCase("28x28-64ch-3gated-batch16", 16, quick=True, naive_rows=2),
    SamplingCase("28x28-64ch-3gated-batch64", 64, naive_rows=1),
    SamplingCase("28x28-64ch-3gated-batch256", 256, naive_rows=1),
    SamplingCase("28x28-64ch-3gated-3x3first-batch1", 1, {"initial_kernel": 3}),
    SamplingCase("28x28-32ch-6gated-residual-batch1", 1, {"hidden_dim": 32, "n_layers": 6, "residual": True}),
)


def live_flops(stages: tuple[Stage, ...], image_channels: int, size: tuple[int, int]) -> int:
    """Floating-point operations of one image: two per live weight and pixel, the context's once per image."""
    channels = [image_channels]
    total = 0
    for stage in stages:
        columns = stage.out_channels * (2 if stage.activation == "gate" else 1)
        total += 2 * columns * sum(channels[s.buffer] * len(s.taps) for s in stage.sources) * size[0] * size[1]
        total += 2 * columns * stage.context_dim
        channels.append(stage.out_channels)
    return total
