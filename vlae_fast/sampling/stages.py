"""Decoder -> program: the stages that compute its logits at a pixel, with the weights they use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..layers import GatedMaskedConv2d, MaskedConv2d
from ..ops.pixelcnn_sample import Source, Stage

Condition = Callable[[Tensor], Tensor]

_ACTIVATIONS: dict[type[nn.Module], str] = {nn.ReLU: "relu", nn.ELU: "elu"}


@dataclass
class Program:
    """Stages, their weights (per stage: one ``[P, C, taps]`` per source, then the bias ``[P]``), their conditions on z."""

    image_channels: int
    stages: list[Stage] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    conditions: list[Condition] = field(default_factory=list)

    def conv(self, layer: nn.Conv2d, taps: tuple[tuple[int, int], ...], buffer: int, activation: str) -> None:
        """Appends a convolution of one buffer, snapshotting the weights of its live taps."""
        kh, kw = layer.weight.shape[2:]
        live = layer.weight.detach()[:, :, [kh // 2 + dy for dy, _ in taps], [kw // 2 + dx for _, dx in taps]]
        if isinstance(layer, MaskedConv2d) and layer.image_channels > 1:
            live = live * _centre_mask(layer, taps)
        zeros = live.new_zeros(live.shape[0])
        self.weights += [live.contiguous(), zeros if layer.bias is None else layer.bias.detach().clone()]
        channels = live.shape[0] // (2 if activation == "gate" else 1)
        cond = isinstance(layer, GatedMaskedConv2d) and layer.cond is not None
        self.stages.append(Stage(channels, activation, -1, cond, (Source(buffer, taps),)))

    def conditions_on(self, z: Tensor | None) -> list[Tensor]:
        """The tensors that the stages with a condition add, for a batch of z."""
        return [condition(z) for condition in self.conditions] if z is not None else []


def _centre_mask(layer: MaskedConv2d, taps: tuple[tuple[int, int], ...]) -> Tensor:
    from ..masks import conv_mask

    kh, kw = layer.weight.shape[2:]
    mask = conv_mask(layer.mask_type, layer.weight.shape, image_channels=layer.image_channels, device=layer.weight.device)
    return mask[:, :, [kh // 2 + dy for dy, _ in taps], [kw // 2 + dx for _, dx in taps]]


def _add(program: Program, path: str, module: nn.Module, buffer: int) -> int:
    """Appends ``module`` reading ``buffer``; returns the buffer it writes. Errors name the module by its path."""
    if isinstance(module, nn.Sequential):
        for name, child in module.named_children():
            buffer = _add(program, f"{path}.{name}", child, buffer)
        return buffer
    if isinstance(module, (nn.Identity, nn.Dropout)):  # a sampler runs in evaluation mode
        return buffer
    if isinstance(module, MaskedConv2d):
        program.conv(module, module.taps, buffer, module.activation)
        if isinstance(module, GatedMaskedConv2d) and module.cond is not None:
            program.conditions.append(module.condition)
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
        f"PixelCNNSampler: decoder must be built of masked convolutions, 1x1 convolutions, ReLU and ELU after a convolution, "
        f"got {type(module).__name__} at {path!r}"
    )


def build_program(decoder: nn.Module) -> Program:
    """The program of a decoder with ``initial_conv``, ``decoder_layers`` and ``final_conv``, as `PixelCNNDecoder` has.

    Raises:
        ValueError: a layer cannot be expressed as a stage; named by its path.
    """
    missing = [n for n in ("input_dim", "initial_conv", "decoder_layers", "final_conv") if not hasattr(decoder, n)]
    if missing:
        raise ValueError(f"PixelCNNSampler: decoder must have {', '.join(missing)}, got {type(decoder).__name__}")
    program = Program(decoder.input_dim)  # type: ignore[arg-type]
    buffer = _add(program, "initial_conv", decoder.initial_conv, 0)  # type: ignore[arg-type]
    for i, layer in enumerate(decoder.decoder_layers):  # type: ignore[arg-type]
        before, buffer = buffer, _add(program, f"decoder_layers.{i}", layer, buffer)
        if getattr(decoder, "residual", False):
            program.stages[-1] = program.stages[-1]._replace(residual=before)
    _add(program, "final_conv", decoder.final_conv, buffer)  # type: ignore[arg-type]
    if not all(torch.is_floating_point(w) for w in program.weights):
        raise ValueError("PixelCNNSampler: decoder must have floating-point weights")
    return program
