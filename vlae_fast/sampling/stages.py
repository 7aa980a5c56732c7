"""Decoder -> program: the stages that compute its logits at a pixel, with the weights they use."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from ..layers import GatedMaskedConv2d, MaskedConv2d
from ..layers.conv import without_expansion
from ..masks import Tap
from ..program import Source, Stage
from ..reference import run_program

_ACTIVATIONS: dict[type[nn.Module], str] = {nn.ReLU: "relu", nn.ELU: "elu"}


class Decoder(Protocol):
    """What a sampler asks of a decoder. `PixelCNNDecoder` is one; so is any module of the same parts.

    Optional: ``latent_dim``; ``residual`` (a layer's input is added to its output); ``spread(z)``, the map that the
    gated layers see in place of z; ``check_z(z)``, which raises where z does not fit.
    """

    input_dim: int
    image_size: tuple[int, int]

    @property
    def initial_conv(self) -> nn.Module: ...
    @property
    def decoder_layers(self) -> Iterable[nn.Module]: ...
    @property
    def final_conv(self) -> nn.Module: ...
    def spread(self, z: Tensor) -> Tensor: ...
    def check_z(self, z: Tensor | None) -> None: ...
    def __call__(self, x: Tensor, z: Tensor | None) -> Tensor: ...


@dataclass
class Program:
    """Stages and a snapshot of their weights, in the order that `ops.pixelcnn_pack` asks for."""

    image_channels: int
    stages: list[Stage] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)

    @property
    def context_dim(self) -> int:
        """Channels of the context that the stages see, 0 where none does."""
        return max((stage.context_dim for stage in self.stages), default=0)

    def conv(self, layer: nn.Conv2d, taps: tuple[Tap, ...], buffer: int, activation: str) -> None:
        """Appends a convolution of one buffer, with the condition of a gated layer."""
        kh, kw = layer.weight.shape[2:]
        weight = layer.live_weight() if isinstance(layer, MaskedConv2d) else layer.weight
        live = weight.detach()[:, :, [kh // 2 + dy for dy, _ in taps], [kw // 2 + dx for _, dx in taps]]
        bias = live.new_zeros(live.shape[0]) if layer.bias is None else layer.bias.detach().clone()
        self.weights += [live.contiguous(), bias]
        context_dim = 0
        if isinstance(layer, GatedMaskedConv2d) and layer.cond is not None:
            context_dim = layer.cond_channels
            self.weights.append(layer.cond.weight.detach()[:, :, 0, 0].clone())
        channels = live.shape[0] // (2 if activation == "gate" else 1)
        self.stages.append(Stage(channels, activation, -1, context_dim, (Source(buffer, taps),)))


def _add(program: Program, path: str, module: nn.Module, buffer: int) -> int:
    """Appends ``module`` reading ``buffer``; returns the buffer it writes. Errors name the module by its path."""
    if isinstance(module, nn.Sequential):
        for name, child in module.named_children():
            buffer = _add(program, f"{path}.{name}", child, buffer)
        return buffer
    if isinstance(module, (nn.Identity, nn.Dropout)):  # a sampler draws as in evaluation mode
        return buffer
    if isinstance(module, MaskedConv2d):
        program.conv(module, module.taps, buffer, module.activation)
        return len(program.stages)
    if type(module) is nn.Conv2d and module.kernel_size == (1, 1) and module.stride == (1, 1) and module.groups == 1:
        program.conv(module, ((0, 0),), buffer, "none")
        return len(program.stages)
    if type(module) in _ACTIVATIONS and program.stages and buffer == len(program.stages):
        last = program.stages[-1]
        if last.activation == "none" and last.residual < 0 and getattr(module, "alpha", 1.0) == 1.0:
            program.stages[-1] = last._replace(activation=_ACTIVATIONS[type(module)])
            return buffer
    raise ValueError(
        "PixelCNNSampler: decoder must be built of masked convolutions, 1x1 convolutions, and ReLU or ELU after a "
        f"convolution, got {type(module).__name__} at {path!r}"
    )


def build_program(decoder: Decoder) -> Program:
    """The program of a decoder's current weights.

    Raises:
        ValueError: a layer cannot be expressed as a stage (named by its path), or `decoder.forward` does something else
            than its parts in turn.
    """
    parts = ("input_dim", "image_size", "initial_conv", "decoder_layers", "final_conv")
    missing = [name for name in parts if not hasattr(decoder, name)]
    if missing:
        raise ValueError(f"PixelCNNSampler: decoder must have {', '.join(missing)}, got {type(decoder).__name__}")
    program = Program(decoder.input_dim)
    buffer = _add(program, "initial_conv", decoder.initial_conv, 0)
    for i, layer in enumerate(decoder.decoder_layers):
        before, buffer = buffer, _add(program, f"decoder_layers.{i}", layer, buffer)
        if getattr(decoder, "residual", False):
            program.stages[-1] = program.stages[-1]._replace(residual=before)
    _add(program, "final_conv", decoder.final_conv, buffer)
    _check_forward(decoder, program)
    return program


def context_of(decoder: Decoder, z: Tensor) -> Tensor:
    """What the gated layers see of z: z itself, or the map that the decoder spreads it to."""
    return without_expansion(decoder.spread(z) if hasattr(decoder, "spread") else z)


@torch.no_grad()
def _check_forward(decoder: Decoder, program: Program) -> None:
    """Runs program and decoder once on the same noise: a `forward` of its own would be sampled wrongly in silence."""
    weight, generator = program.weights[0], torch.Generator().manual_seed(0)
    x = torch.rand(1, program.image_channels, *decoder.image_size, generator=generator).to(weight).round()
    z = None
    if latent_dim := getattr(decoder, "latent_dim", program.context_dim):
        z = torch.randn(1, latent_dim, generator=generator).to(weight)
    context = context_of(decoder, z) if z is not None and program.context_dim else None
    expected, got = decoder(x, z), run_program(program.stages, program.weights, context, x)
    if torch.isfinite(expected).all():  # weights that are not finite are named when they are packed
        error, scale = (got - expected).abs().max().item(), 1 + expected.abs().max().item()
        if error > 1e3 * torch.finfo(weight.dtype).eps * scale:
            raise ValueError(
                "PixelCNNSampler: decoder.forward must be initial_conv, decoder_layers and final_conv in turn (and in "
                f"evaluation mode where it has dropout), got logits that differ by {error:.3g}"
            )
