"""Forms of z that a layer is handed, and what it sees: the loops of tutorials run on every decoder's layers."""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn, TypeGuard

import torch
from torch import Tensor, nn

from ...layers import GatedMaskedConv2d, MaskedConv2d
from ...layers.conv import is_expanded
from ...layers.hooked_weight import only_computes
from ...ops.masked_conv import masked_conv
from ..shapes import each


class HandedZ:
    """Turns what the layers of a decoder are handed, z in one of three forms, into the context that they see.

    * ``[B, D]``: the code;
    * ``[B, D, H, W]``, the same at every pixel: the code too, as tutorials expand it;
    * ``[B, z_channels, H, W]``, any other: the map that `Decoder.spread` made of the code.

    Where z_channels is D, a tensor that is the same at every pixel is the code, unless it may as well be a map: of an
    image so small (4 x 4 or less) that maps are the same at every pixel too. It is refused then, unless it was expanded
    (strides of 0), which no map is. A decoder without a map has one form alone: what it is given, at each pixel.

    Args:
        name: of the decoder, for messages. latent_dim: D. z_channels: of the context. network: code -> map, or None.
    """

    def __init__(self, name: str, latent_dim: int, z_channels: int, network: nn.Module | None) -> None:
        self.name, self.latent_dim, self.z_channels, self.network = name, latent_dim, z_channels, network

    def context(self, z: Tensor | None, call: str) -> Tensor | None:
        """The context ``[B, D]`` or ``[B, z_channels, H, W]`` of what a layer is handed.

        call: of the layer, as it should be, for the message where z is missing.

        Raises:
            ValueError: z is missing, of another shape, or neither code nor map for sure.
        """
        if z is None and self.latent_dim:
            self.refuse(f"must be called as {call}, with z or its map", "no z")
        if z is not None and not self.latent_dim and z.dim() > 1 and not z.shape[1]:
            return None  # [B, 0], the code of a model without z
        if z is None or self.network is None:
            return z
        channels = {2: (self.latent_dim,), 4: (self.latent_dim, self.z_channels)}
        if z.dim() not in channels or z.shape[1] not in channels[z.dim()]:
            rule = f"[B, {self.latent_dim}], that at every pixel, or its map [B, {self.z_channels}, H, W]"
            self.refuse(f"must be handed z as {rule}", tuple(z.shape))
        if z.dim() == 2 or (is_expanded(z) and z.shape[1] == self.latent_dim):
            return self.network(z if z.dim() == 2 else z[:, :, 0, 0])
        return z if z.shape[1] != self.latent_dim else self._of_values(z, self.network)

    def _of_values(self, z: Tensor, network: nn.Module) -> Tensor:
        """The context of ``[B, D, H, W]`` in memory of its own, which only its values tell from a map."""
        if not _is_constant(z):
            if self.z_channels == self.latent_dim:
                return z
            self.refuse("must be handed a z that is the same at every pixel", "one that varies")
        made: Tensor = network(z[:, :, 0, 0])
        alike = z.shape == made.shape and _is_constant(made, 8 * torch.finfo(made.dtype).eps)  # resized: it rounds
        if self.z_channels == self.latent_dim and alike and not z.equal(made):
            self.refuse("must be handed z as [B, D] where a map is the same at every pixel as well", tuple(z.shape))
        return made

    def refuse(self, rule: str, got: object) -> NoReturn:
        """Raises ValueError in the name of the decoder's layers."""
        raise ValueError(f"{self.name}: its layers {rule}, got {got}; decoder(x, z) runs all of them")


def see(layer: nn.Module, *inputs: Tensor, context: Tensor | None) -> Any:
    """``layer(*inputs, context)`` for a context that z has become; a layer of our own is told that it has."""
    if getattr(layer, "takes_context", False):
        return layer(*inputs, context=context)
    return layer(*inputs, context)


def _is_constant(z: Tensor, rounding: float = 0.0) -> bool:
    return bool(((z - z[:, :, :1, :1]).abs() <= rounding * z.abs()).all())


class ConvOfZ(MaskedConv2d):
    """A masked convolution of a decoder: ``forward(x, z)`` for callers, ``forward(x, context=...)`` for the decoder.

    Args:
        handed: says what z is; None: as in the plain layer. call: what a caller who forgets z is told.
    """

    takes_context: ClassVar[bool] = True

    def __init__(
        self, *args: Any, handed: HandedZ | None = None, call: str = "initial_conv(x, z)", **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self.handed, self.call = handed, call

    def forward(
        self, x: Tensor, cond: Tensor | None = None, added: Tensor | None = None, *, context: Tensor | None = None
    ) -> Tensor:
        """The layer's output, with x added where it is residual; cond: z as in `HandedZ`; context: what z became."""
        if context is None:
            context = cond if self.handed is None else self.handed.context(cond, self.call)
        return self._with_residual(x, context, added, residual=self.residual)


class GatedLayer(ConvOfZ, GatedMaskedConv2d):
    """A gated layer of a decoder, which carries its residual: ``gate(W h + bias + V z) + h``.

    Arguments, parameters and state_dict are those of `GatedMaskedConv2d`. ``layer(h, z)`` takes z, z
    expanded over the image, or its map (`HandedZ`).

    Args:
        residual: adds h. handed: as in `ConvOfZ`.
    """

    def __init__(self, *args: Any, residual: bool = False, **options: Any) -> None:
        super().__init__(*args, call="layer(h, z)", **options)
        self.residual = residual

    def of_draws(self, h: Tensor, context: Tensor, draws: int) -> Tensor:
        """``layer(h.repeat_interleave(draws, 0), context)``, with ``W h + bias`` computed once an image.

        h: ``[B, C, H, W]``. context: ``[B draws, z_channels, H, W]``, as from `Decoder.spread`. What is left for a draw
        is V context, a 1x1 convolution of the context under the condition W h + bias.
        """
        assert self.cond is not None
        out = masked_conv(
            context,
            self.cond.weight,
            None,
            each(self.pre_activation(h), draws),
            mask_type="B",
            activation=self.activation,
            backend=self.backend,
        )
        return out + each(h, draws) if self.residual else out

    def extra_repr(self) -> str:
        return super().extra_repr() + (", residual=True" if self.residual else "")


def can_share(layer: nn.Module, context: Tensor | None) -> TypeGuard[GatedLayer]:
    """True where `GatedLayer.of_draws` is what a call computes: z is a map, and no hook or other code looks on."""
    plain = only_computes(layer, GatedLayer) and layer.condition_is_product
    return plain and context is not None and context.dim() == 4
