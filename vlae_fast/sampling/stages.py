"""Decoder -> program: the stages that compute its logits at a pixel, with the weights they use."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from ..layers import GatedMaskedConv2d, MaskedConv2d
from ..masks import Tap
from ..ops.pixelcnn_sample import Source, Stage

_ACTIVATIONS: dict[type[nn.Module], str] = {nn.ReLU: "relu", nn.ELU: "elu"}


@dataclass
class Program:
    """Stages and a snapshot of their weights, in the order that `ops.pixelcnn_pack` asks for."""

    image_channels: int
    stages: list[Stage] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)

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
    return program
