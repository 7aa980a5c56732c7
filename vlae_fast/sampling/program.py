"""Decoder -> program: the stages that compute its logits at a pixel, with the weights they use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import gcd
from typing import Any, NamedTuple, NoReturn, Protocol

import torch
from torch import Tensor, nn

from .. import activations
from ..layers import MaskedConv2d
from ..layers.conv import carries_residual
from ..layers.hooked_weight import refresh
from ..masks import Offset, Tap, tap_at
from ..plan import ACTIVATIONS, EVERYWHERE, MAX_STRIDE, Sites, Source, Stage, writers_of

_MODULES = {row.module: row.name for row in activations.TABLE if row.module is not None and row.code is not None}


# buffer, weight [P, C, kh, kw], its live taps: offsets, or where the kernel is dilated their places too
SourceSpec = tuple[int, Tensor, Sequence[Offset] | Sequence[Tap]]


class Decoder(Protocol):
    """The decoder that a sampler asks for: these three attributes, and a way to find its stages.

    The stages come from a method ``write_program(program)``, which appends them (see `Program.add`), or from the parts
    of `PixelCNNDecoder`: ``initial_conv``, ``decoder_layers``, ``final_conv`` and ``residual`` (a layer's input is
    added to its output, unless the layer itself adds it). Optional: ``latent_dim``; ``likelihood``, by which pixels are
    drawn; ``code_map``, ``spread(z)``: the map that the stages see in place of z; ``check_z(z)``, which raises where z
    does not fit.
    """

    input_dim: int
    image_size: tuple[int, int]

    def __call__(self, x: Tensor, z: Tensor | None) -> Tensor: ...


class Origin(NamedTuple):
    """Where a weight of a program was taken from: a tensor, in the memory that it was given in."""

    tensor: Tensor
    places: tuple[int, ...] = ()  # of the taps in a kernel of a source's weight
    is_constant: bool = False  # the program's own


@dataclass
class Program:
    """Stages and a snapshot of their weights, in the order that `ops.pixelcnn_pack` asks for."""

    image_channels: int  # of buffer 0
    stages: list[Stage] = field(default_factory=list)  # in turn; stage s writes buffer s + 1
    weights: list[Tensor] = field(default_factory=list)
    origins: list[Origin] = field(default_factory=list)  # of the weights, as far as `add` and `norm` wrote them

    @property
    def context_dim(self) -> int:
        """Channels of the context that the stages see, 0 where none does."""
        return max((stage.context_dim for stage in self.stages), default=0)

    def add(
        self,
        sources: Sequence[SourceSpec],
        bias: Tensor | None = None,
        activation: str = "none",
        context: Tensor | None = None,
        residual: int = -1,
        factor: int = -1,
        *,
        sites: Sites = EVERYWHERE,
        joins: int = -1,
    ) -> int:
        """Appends ``act( bias + context z + sum over sources, taps of weight[:, :, tap] buffer[. + tap] ) + residual``.

        Where there is a factor, the activation is multiplied by it before the residual is added.

        Args:
            sources: (buffer, weight ``[P, C, kh, kw]``, live taps); buffer 0 is the image. A tap is the offset (dy, dx)
                that it reads, or a `masks.Tap`, which has its place in the kernel too: a dilated kernel needs that.
            bias: ``[P]``, None: 0.
            activation: one of `vlae_fast.activations.names("pixelcnn_sample")`; ``gate`` and ``glu`` halve P.
            context: V ``[P, D]`` where the stage sees z (or the map that `spread` makes of it).
            residual: a buffer that is added after the activation, -1: none. factor: one that it is multiplied by.
            sites: the pixels that it computes, by default all: those of a strided convolution, or a phase of a
                transposed one. Taps count in pixels of the image in any case. joins: the buffer of an earlier stage,
                of other sites of the same stride, that it writes: a reader takes the phases as one. -1: its own.

        Returns:
            the buffer it writes, for later stages to read.

        Raises:
            ValueError: channels do not fit, a buffer is not written yet, a tap is outside of the weight, sites are
                none, a stage of the same sites writes the joined buffer.
        """
        if activation not in ACTIVATIONS:
            self._fail(f"activation must be one of {', '.join(ACTIVATIONS)}", repr(activation))
        if not sources:
            self._fail("sources must not be empty", "none")
        width = sources[0][1].shape[0]
        channels = width // activations.columns(activation)
        reads = []
        for buffer, weight, taps in sources:
            self.weights.append(self._live(buffer, weight, taps, width))
            reads.append(Source(buffer, tuple(tap.offset if isinstance(tap, Tap) else tap for tap in taps)))
        if bias is not None and bias.shape != (width,):
            self._fail(f"bias must be [{width}]", list(bias.shape))
        if context is not None and (context.dim() != 2 or context.shape[0] != width):
            self._fail(f"context must be [{width}, D]", list(context.shape))
        self._check_width(channels, residual=residual, factor=factor, joins=joins)
        self._check_sites(sites, joins)
        self._keep(self.weights[-1].new_zeros(width) if bias is None else bias, own=bias is None)
        if context is not None:
            self._keep(context)
        context_dim = 0 if context is None else context.shape[1]
        own = (channels, activation, residual, context_dim, tuple(reads))
        self.stages.append(Stage(*own, factor=factor, sites=sites, joins=joins))
        return len(self.stages) if joins < 0 else joins

    def norm(
        self,
        buffer: int,
        gain: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
        *,
        activation: str = "none",
        residual: int = -1,
        factor: int = -1,
    ) -> int:
        """Appends ``act( bias + gain (h - mean h) / sqrt(var h + eps) ) * factor + residual``, h a pixel's channels.

        That is `torch.nn.LayerNorm` over the channels of each pixel of a buffer.

        Args:
            buffer: h is read from it. gain, bias: ``[C]``, None: 1 and 0. eps: above 0.
            activation: as in `add`, ``gate`` and ``glu`` excepted. residual, factor: as in `add`.

        Returns:
            the buffer it writes.

        Raises:
            ValueError: channels do not fit, a buffer is not written yet, eps is not above 0.
        """
        channels = self.channels(buffer)
        self._check_one_column("a norm", activation)
        if not eps > 0:
            self._fail("eps must be above 0", eps)
        if not self.weights:  # gain and bias take their dtype and device
            self._fail("a norm must follow a stage with weights", "none")
        for name, value in (("gain", gain), ("bias", bias)):
            if value is not None and value.shape != (channels,):
                self._fail(f"{name} must be [{channels}]", list(value.shape))
        self._check_width(channels, residual=residual, factor=factor)
        like = self.weights[-1]
        self._keep(like.new_ones(channels) if gain is None else gain, own=gain is None)
        self._keep(like.new_zeros(channels) if bias is None else bias, own=bias is None)
        self._keep(like.new_tensor([eps]), own=True)
        reads = (Source(buffer, ((0, 0),)),)
        self.stages.append(Stage(channels, activation, residual, 0, reads, "norm", factor, self.sites(buffer)))
        return len(self.stages)

    def attend(
        self,
        q: int,
        k: int,
        v: int,
        heads: int = 1,
        scale: float | None = None,
        *,
        itself: bool = True,
        activation: str = "none",
        residual: int = -1,
        factor: int = -1,
    ) -> int:
        """Appends causal attention: ``act( sum over pixels p of softmax(scale q . k[p]) v[p] ) * factor + residual``.

        p are the pixels before its own in raster order, and where ``itself`` its own; the first pixel gets 0 without.
        That is `torch.nn.functional.scaled_dot_product_attention` over the pixels of an image as a sequence. Whoever
        attends is drawn in raster order, a pixel or two in a step.

        Args:
            q, k, v: buffers. heads: of equal parts of their channels. scale: None: ``d ** -0.5``, d the channels of q
                that a head has. itself: a pixel sees its own k and v.
            activation: as in `norm`. residual, factor: as in `add`.

        Returns:
            the buffer it writes, of as many channels as v.

        Raises:
            ValueError: channels do not fit, a buffer is not written yet.
        """
        counts, channels = [self.channels(buffer) for buffer in (q, k, v)], self.channels(v)
        self._check_one_column("attention", activation)
        if counts[0] != counts[1]:
            self._fail("q and k must have the same channels", f"{counts[0]} and {counts[1]}")
        if heads < 1 or any(count % heads for count in counts):
            self._fail(f"heads must divide the channels of q, k and v, {counts}", heads)
        if not self.weights:  # its scale takes their dtype and device
            self._fail("attention must follow a stage with weights", "none")
        self._check_width(channels, residual=residual, factor=factor)
        scale = (counts[0] // heads) ** -0.5 if scale is None else scale
        self._keep(self.weights[-1].new_tensor([scale]), own=True)
        reads = (Source(q, ((0, 0),)), *(Source(buffer, ((0, 0 if itself else -1),)) for buffer in (k, v)))
        self.stages.append(Stage(channels, activation, residual, 0, reads, "attend", factor, heads=heads))
        return len(self.stages)

    def product(self, a: int, b: int) -> int:
        """Appends the product of the buffers a and b, of equal channels, at every pixel; returns its buffer."""
        if not self.weights:  # an identity takes their dtype and device
            self._fail("a product must follow a stage with weights", "none")
        eye = self.weights[-1].new_ones(self.channels(a)).diag()
        return self.add([(a, eye[:, :, None, None], ((0, 0),))], factor=b, sites=self.sites(a))

    def _keep(self, weight: Tensor, *, own: bool = False) -> None:
        """Appends a weight; own: the program made it."""
        self.weights.append(weight.detach() if own else weight.detach().clone())
        self.origins.append(Origin(weight.detach(), (), own))

    def _check_one_column(self, what: str, activation: str) -> None:
        if activation not in ACTIVATIONS or activations.columns(activation) != 1:
            one = [name for name in ACTIVATIONS if activations.columns(name) == 1]
            self._fail(f"activation of {what} must be one of {', '.join(one)}", repr(activation))

    def _check_width(self, channels: int, **buffers: int) -> None:
        for name, buffer in buffers.items():
            if buffer >= 0 and self.channels(buffer) != channels:
                self._fail(f"{name} must be a buffer of {channels} channels", self.channels(buffer))

    def _check_sites(self, sites: Sites, joins: int) -> None:
        stride, row, column = sites
        if not (1 <= stride <= MAX_STRIDE and 0 <= row < stride and 0 <= column < stride):
            self._fail(f"sites must have a stride in 1..{MAX_STRIDE}, row and column below it", tuple(sites))
        if joins < 0:
            return
        target = self.stages[joins - 1] if joins else None
        if target is None or target.joins >= 0 or target.sites.stride != stride:
            self._fail(f"joins must be the own buffer of a stage of stride {stride}", joins)
        if any(sites == self.stages[s].sites for s in writers_of(self.stages, joins)):
            self._fail(f"sites must be others than those of the stages that write buffer {joins}", tuple(sites))

    def conv(
        self,
        layer: MaskedConv2d,
        buffer: int,
        *,
        also: Sequence[SourceSpec] = (),
        residual: int = -1,
    ) -> int:
        """Appends a masked convolution of one buffer, with its condition, and returns the buffer that it writes.

        layer: the convolution. also: further sources of its pre-activation, residual: a buffer, as in `add`.
        """
        context = None if layer.cond is None else layer.cond.weight[:, :, 0, 0]
        weight = layer.live_weight() if layer.image_channels > 1 else layer.folded_weight()  # whole taps are dead
        sources = [(buffer, weight, layer.live_taps), *also]
        return self.add(sources, layer.bias, layer.activation, context, residual)

    def activate(self, buffer: int, activation: str) -> int:
        """Appends an activation of a buffer (a residual sum): ``relu``, ``elu``, ``concat_elu`` (of h and -h)."""
        if not self.weights:  # an identity takes their dtype and device
            self._fail("an activation must follow a stage with weights", "none")
        eye = self.weights[-1].new_ones(self.channels(buffer)).diag()
        weight = torch.cat([eye, -eye]) if activation == "concat_elu" else eye
        source = (buffer, weight[:, :, None, None], ((0, 0),))
        return self.add([source], activation=activation.removeprefix("concat_"), sites=self.sites(buffer))

    def reorder(self, order: Sequence[int]) -> None:
        """Puts the channels of the last buffer into another order: new channel i is the old ``order[i]``."""
        last, index = self.stages[-1], torch.tensor(order, device=self.weights[-1].device)
        self.origins.clear()  # the weights are no longer where a module has them
        if last.activation == "none" and last.kind == "sum" and last.residual < 0 and last.factor < 0:
            self.weights[-last.n_weights :] = [weight[index] for weight in self.weights[-last.n_weights :]]
        else:
            eye = self.weights[-1].new_ones(len(order)).diag()[index]
            self.add([(len(self.stages), eye[:, :, None, None], ((0, 0),))])

    def channels(self, buffer: int) -> int:
        """How many channels a buffer has."""
        if not 0 <= buffer <= len(self.stages):
            self._fail(f"a buffer that is read must be 0 to {len(self.stages)}, those written so far", buffer)
        return self.stages[buffer - 1].out_channels if buffer else self.image_channels

    def sites(self, buffer: int) -> Sites:
        """The pixels of a buffer that are computed, where those of its stages are every so many rows and columns."""
        all_sites = [self.stages[s].sites for s in writers_of(self.stages, buffer)] if buffer else [EVERYWHERE]
        stride, row, column = all_sites[0]
        step = gcd(stride, *(n for sites in all_sites for n in (sites.row - row, sites.column - column)))
        return Sites(step, row % step, column % step)

    def _live(self, buffer: int, weight: Tensor, taps: Sequence[Offset] | Sequence[Tap], width: int) -> Tensor:
        """A source's weights at its taps, ``[P, C, taps]``."""
        shape = (width, self.channels(buffer))
        if weight.dim() != 4 or tuple(weight.shape[:2]) != shape:
            self._fail(f"weight of buffer {buffer} must be {[*shape]} x kh x kw", list(weight.shape))
        kh, kw = weight.shape[2:]
        placed = [tap if isinstance(tap, Tap) else tap_at(tap, (kh, kw)) for tap in taps]
        outside = [offset for (i, j), offset in placed if not (0 <= i < kh and 0 <= j < kw)]
        if outside or kh % 2 == 0 or kw % 2 == 0:
            self._fail(f"taps of buffer {buffer} must lie in an odd kernel, {kh} x {kw}", outside)
        self.origins.append(Origin(weight.detach(), tuple(tap.place[0] * kw + tap.place[1] for tap in placed)))
        return weight.detach()[:, :, [tap.place[0] for tap in placed], [tap.place[1] for tap in placed]].contiguous()

    @staticmethod
    def _fail(rule: str, got: object) -> NoReturn:
        raise ValueError(f"Program.add: {rule}, got {got}")


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
        return program.conv(module, buffer, residual=buffer if module.residual else -1)
    if type(module) is nn.Conv2d and _is_pointwise(module):
        return program.add([(buffer, module.weight, ((0, 0),))], module.bias)
    if type(module) in _MODULES and program.stages and buffer == len(program.stages) != keep:
        last = program.stages[-1]
        if last.activation == "none" and last.residual < 0 and last.factor < 0 and _has_default_arguments(module):
            program.stages[-1] = last._replace(activation=_MODULES[type(module)])
            return buffer
    raise ValueError(
        "PixelCNNSampler: decoder must be built of masked convolutions, 1x1 convolutions, and after a convolution "
        f"{', '.join(row.__name__ for row in _MODULES)} with default arguments, got {type(module).__name__} at {path!r}"
    )


def _has_default_arguments(activation: nn.Module) -> bool:
    """True where it computes what the table says of its class; ``inplace`` changes nothing in that."""
    given, default = vars(activation), vars(type(activation)())
    options = [name for name in default if not name.startswith("_") and name not in ("training", "inplace")]
    return all(given.get(name) == default[name] for name in options)


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
    parts = ["input_dim", "image_size"]
    if not hasattr(decoder, "write_program"):
        parts += ["initial_conv", "decoder_layers", "final_conv"]
    missing = [name for name in parts if not hasattr(decoder, name)]
    if missing:
        raise ValueError(f"PixelCNNSampler: decoder must have {', '.join(missing)}, got {type(decoder).__name__}")
    for module in decoder.modules() if isinstance(decoder, nn.Module) else ():
        refresh(module)
    program = Program(decoder.input_dim)
    if hasattr(decoder, "write_program"):
        decoder.write_program(program)
    else:
        _write_parts(decoder, program)
    return program


def _write_parts(decoder: Any, program: Program) -> None:
    """Writes the stages of a decoder of parts, such as `PixelCNNDecoder`, in turn."""
    residual = getattr(decoder, "residual", False)
    buffer = _add(program, "initial_conv", decoder.initial_conv, 0)
    for i, layer in enumerate(decoder.decoder_layers):
        path, before = f"decoder_layers.{i}", buffer
        buffer = _add(program, path, layer, before, keep=before if residual else -1)
        if residual and buffer == before:
            raise ValueError(
                f"PixelCNNSampler: decoder must have a convolution in each residual layer, got none at {path!r}"
            )
        if residual and not carries_residual(layer):
            program.stages[-1] = program.stages[-1]._replace(residual=before)
    _add(program, "final_conv", decoder.final_conv, buffer)
