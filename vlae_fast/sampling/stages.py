"""Decoder -> program: the stages that compute its logits at a pixel, with the weights they use."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor, nn

from ..layers import GatedMaskedConv2d, MaskedConv2d
from ..masks import Tap
from ..program import Source, Stage

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


def _add(program: Program, path: str, module: nn.Module, buffer: int, keep: int = -1) -> int:
    """Appends ``module`` reading ``buffer``; returns the buffer it writes. Errors name the module by its path.

    An activation is fused into the stage before it, unless that is buffer ``keep``, which a residual still reads.
    """
    if isinstance(module, nn.Sequential):
        for name, child in module.named_children():
            buffer = _add(program, f"{path}.{name}", child, buffer, keep)
        return buffer
    if isinstance(module, (nn.Identity, nn.Dropout)):  # a sampler draws as in evaluation mode
        return buffer
    if isinstance(module, MaskedConv2d):
        program.conv(module, module.taps, buffer, module.activation)
        return len(program.stages)
    if type(module) is nn.Conv2d and _is_pointwise(module):
        program.conv(module, ((0, 0),), buffer, "none")
        return len(program.stages)
    if type(module) in _ACTIVATIONS and program.stages and buffer == len(program.stages) != keep:
        last = program.stages[-1]
        if last.activation == "none" and last.residual < 0 and getattr(module, "alpha", 1.0) == 1.0:
            program.stages[-1] = last._replace(activation=_ACTIVATIONS[type(module)])
            return buffer
    raise ValueError(
        "PixelCNNSampler: decoder must be built of masked convolutions, 1x1 convolutions, and ReLU or ELU after a "
        f"convolution, got {type(module).__name__} at {path!r}"
    )


def _is_pointwise(conv: nn.Conv2d) -> bool:
    return (conv.kernel_size, conv.stride, conv.groups) == ((1, 1), (1, 1), 1) and conv.padding in (
        (0, 0),
        "valid",
        "same",
    )


def build_program(decoder: Decoder) -> Program:
    """The program of a decoder's current weights.

    Raises:
        ValueError: a layer cannot be expressed as a stage; named by its path.
    """
    parts = ("input_dim", "image_size", "initial_conv", "decoder_layers", "final_conv")
    missing = [name for name in parts if not hasattr(decoder, name)]
    if missing:
        raise ValueError(f"PixelCNNSampler: decoder must have {', '.join(missing)}, got {type(decoder).__name__}")
    program, residual = Program(decoder.input_dim), getattr(decoder, "residual", False)
    buffer = _add(program, "initial_conv", decoder.initial_conv, 0)
    for i, layer in enumerate(decoder.decoder_layers):
        path, before = f"decoder_layers.{i}", buffer
        buffer = _add(program, path, layer, before, keep=before if residual else -1)
        if residual and buffer == before:
            raise ValueError(
                f"PixelCNNSampler: decoder must have a convolution in each residual layer, got none at {path!r}"
            )
        if residual:
            program.stages[-1] = program.stages[-1]._replace(residual=before)
    _add(program, "final_conv", decoder.final_conv, buffer)
    return program
