"""Masked convolutions as modules: the same parameters and state_dict as the plain layers people have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import activations
from ..arguments import whole
from ..masks import (
    Offset,
    Pair,
    Tap,
    check_mask,
    conv_mask,
    conv_taps,
    dilation_pair,
    kernel_taps,
    same_mask,
    same_padding,
)
from ..ops.masked_conv import masked_conv
from .hooked_weight import only_computes
from .weight_norm import WeightNormConv2d


class MaskedConv2d(WeightNormConv2d):
    """A PixelCNN convolution: ``activation(conv2d(x, weight * mask, bias))`` with only the live taps computed.

    Args:
        mask_type: ``A`` or ``B`` (also ``vertical_*``, ``horizontal_*``), see `vlae_fast.masks.live_taps`.
        in_channels, out_channels, kernel_size: as in `torch.nn.Conv2d`; the kernel is square and odd. bias: of the
            pre-activation.
        padding: must keep the image's size: ``dilation * (kernel_size // 2)``, the default.
        cond_channels: D, channels of the condition, 0: none; its weight V is ``cond.weight`` ``[P, D, 1, 1]``, with P
            the channels of the pre-activation.
        image_channels: 3 makes the layer autoregressive over RGB too, see `vlae_fast.masks.conv_mask`.
        activation: ``none``, ``relu``, ``elu``, ``gate``.
        dilation: pixels from one tap to the next, (vertical, horizontal) or one int for both: the layer sees further
            at the same cost, and the sampler's wavefront follows. Neither weight nor mask depend on it.
        weight_norm: adds a ``gain``, see `WeightNormConv2d`; the norm is taken over the live weights.
        backend: ``auto`` or a name of `vlae_fast.backends.report`.

    Shapes: ``forward(x [B, C_in, H, W], cond [B, D] or [B, D, H, W]) -> [B, C, H, W]``; C is P / 2 under ``gate``, else
    P. A ``[B, D]`` expanded over the image is recognised by its strides and costs no more than ``[B, D]``. ``added``
    ``[B, P, H, W]``, the contribution of another stack, joins the pre-activation unchanged. A ``mask`` entry in an
    incoming state_dict is accepted when it is the mask of this layer or broadcasts to it, as ``[1, 1, k, k]`` does.

    >>> layer = MaskedConv2d("A", 1, 8, 7)
    >>> layer(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 8, 28, 28])
    """

    residual: bool = False  # a subclass whose forward adds x to the output says so: a sampler's program does it too

    def __init__(
        self,
        mask_type: str,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        padding: int | Sequence[int] | None = None,
        bias: bool = True,
        *,
        cond_channels: int = 0,
        image_channels: int = 1,
        activation: str = "none",
        dilation: int | Sequence[int] = 1,
        weight_norm: bool = False,
        backend: str = "auto",
    ) -> None:
        name, kernel = type(self).__name__, (kernel_size, kernel_size)
        sizes = {"in_channels": in_channels, "out_channels": out_channels, "kernel_size": kernel_size}
        for size, value in sizes.items():
            if whole(name, size, value) < 0:
                raise ValueError(f"{name}: {size} must not be negative, got {value}")
        activations.check(name, "masked_conv", activation)
        check_mask(name, mask_type, kernel)
        steps = dilation_pair(name, dilation)
        same = same_padding(kernel, steps)
        if padding is not None and same != ((padding, padding) if isinstance(padding, int) else tuple(padding)):
            rule = f"padding must be dilation * (kernel_size // 2) = {same[0] if same[0] == same[1] else same}"
            raise ValueError(f"{name}: {rule}, got {padding}")
        if weight_norm and image_channels > 1:
            raise ValueError(f"{name}: image_channels must be 1 where weight_norm is set, got {image_channels}")
        self.mask_type, self.image_channels = mask_type, image_channels
        super().__init__(
            in_channels, out_channels, kernel_size, padding=same, dilation=steps, bias=bias, weight_norm=weight_norm
        )
        self.activation, self.backend = activation, backend
        self.cond_channels = cond_channels
        self.cond = nn.Conv2d(cond_channels, out_channels, 1, bias=False) if cond_channels else None

    @property
    def mask(self) -> Tensor:
        """Boolean ``[P, C_in, k, k]``: True where the weight is alive."""
        weight = self.weight
        return conv_mask(self.mask_type, weight.shape, image_channels=self.image_channels, device=weight.device)

    @property
    def live_taps(self) -> tuple[Tap, ...]:
        """Taps with a live weight, the centre among them where some channel reads it."""
        cpu = torch.device("cpu")  # not on meta
        mask = conv_mask(self.mask_type, self.weight.shape, image_channels=self.image_channels, device=cpu)
        alive = mask.flatten(0, 1).any(0)
        return tuple(tap for tap in kernel_taps(self._kernel, self._steps) if alive[tap.place])

    @property
    def taps(self) -> tuple[Offset, ...]:
        """Offsets (dy, dx) that the `live_taps` read."""
        return tuple(tap.offset for tap in self.live_taps)

    @property
    def _kernel(self) -> Pair:
        return self.kernel_size[0], self.kernel_size[1]

    @property
    def _steps(self) -> Pair:
        return self.dilation[0], self.dilation[1]

    def live_weight(self) -> Tensor:
        """The weight with exact zeros where the mask is dead."""
        return torch.where(self.mask, self.folded_weight(), 0)

    def condition(self, cond: Tensor) -> Tensor:
        """V cond, the condition's part of the pre-activation: ``[B, P]`` or ``[B, P, H, W]``."""
        self._check_cond(cond)
        assert self.cond is not None
        cond = without_expansion(cond)
        return self.cond(cond) if cond.dim() == 4 else F.linear(cond, self.cond.weight[:, :, 0, 0])

    @property
    def condition_is_product(self) -> bool:
        """True where `condition` multiplies by the weight of ``cond``: no hook looks on, no other code is there."""
        cond = self.cond
        if type(self).condition is not MaskedConv2d.condition or cond is None or not only_computes(cond, nn.Conv2d):
            return False
        pointwise = (cond.kernel_size, cond.stride, cond.padding, cond.groups) == ((1, 1), (1, 1), (0, 0), 1)
        return pointwise and cond.bias is None

    def _check_cond(self, cond: Tensor) -> None:
        name = type(self).__name__
        if self.cond is None:
            raise ValueError(f"{name}: cond must be None where cond_channels is 0, got a tensor")
        if cond.dim() not in (2, 4) or cond.shape[1] != self.cond_channels:
            raise ValueError(
                f"{name}: cond must be [B, {self.cond_channels}] or [B, {self.cond_channels}, H, W], "
                f"got {tuple(cond.shape)}"
            )

    def forward(self, x: Tensor, cond: Tensor | None = None, added: Tensor | None = None) -> Tensor:
        """``activation(W x + bias + V cond + added)``, ``[B, C, H, W]``; shapes above."""
        return self._with_residual(x, cond, added, residual=False)

    def _with_residual(self, x: Tensor, cond: Tensor | None, added: Tensor | None, *, residual: bool) -> Tensor:
        """The output, to which x is added where `residual`."""
        if cond is None and self.cond is not None:
            rule = f"cond must be given, this layer has cond_channels = {self.cond_channels}"
            raise ValueError(f"{type(self).__name__}: {rule}, got None")
        context = None
        if cond is not None:
            self._check_cond(cond)
            cond = without_expansion(cond)
            if cond.dim() == 4 and self.condition_is_product:
                context = cond  # which needs no map of its own
            else:
                own = self.condition(cond)
                added = own if added is None else added + (own if own.dim() == 4 else own[:, :, None, None])
        return self._run(x, added, self.activation, context, residual=residual)

    def pre_activation(self, x: Tensor) -> Tensor:
        """``W x + bias``, ``[B, P, H, W]``, without a condition; `initialize` gives it mean 0 and variance 1."""
        return self._run(x, None, "none")

    def _run(
        self,
        x: Tensor,
        cond: Tensor | None,
        activation: str,
        context: Tensor | None = None,
        *,
        residual: bool = False,
    ) -> Tensor:
        return masked_conv(
            x,
            self.folded_weight(),
            self.bias,
            cond,
            mask_type=self.mask_type,
            image_channels=self.image_channels,
            activation=activation,
            dilation=self._steps,
            backend=self.backend,
            context=context,
            context_weight=None if context is None or self.cond is None else self.cond.weight[:, :, 0, 0],
            residual=residual,
        )

    def _live(self) -> Tensor:
        # the live taps of every mask are neighbours in raster order: a view of them needs no product with the mask
        taps = conv_taps(self.mask_type, self._kernel)
        first = taps[0].place[0] * self._kernel[1] + taps[0].place[1] if taps else 0
        return self.weight.flatten(2).narrow(2, first, len(taps))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        mask = state_dict.pop(f"{prefix}mask", None)
        if mask is not None:
            if not same_mask(mask, self.mask):
                raise ValueError(
                    f"{type(self).__name__}: {prefix}mask must be the mask of type {self.mask_type}, got another"
                )
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        norm = "" if self.gain is None else ", weight_norm=True"
        cond = f", cond_channels={self.cond_channels}" if self.cond_channels else ""
        shape = f"{self.mask_type!r}, {super().extra_repr()}"
        return f"{shape}, activation={self.activation!r}{cond}{norm}, backend={self.backend!r}"


def is_expanded(z: Tensor) -> bool:
    """True where z ``[B, D, H, W]`` only repeats ``[B, D]`` over more than one pixel: its strides are 0 there."""
    return z.dim() == 4 and (
        z.stride()[2:] == (0, 0)
        or (
            1 in z.shape[2:]
            and [stride for n, stride in zip(z.shape[2:], z.stride()[2:], strict=True) if n != 1] == [0]
        )
    )


def without_expansion(z: Tensor) -> Tensor:
    """``[B, D]`` where z ``[B, D, H, W]`` only repeats it over the image (strides of 0); any other z unchanged."""
    return z[:, :, 0, 0] if is_expanded(z) else z


def carries_residual(module: nn.Module) -> bool:
    """True where a masked convolution in the module adds its input to its output."""
    return any(m.residual for m in module.modules() if isinstance(m, MaskedConv2d))


class GatedMaskedConv2d(MaskedConv2d):
    """Gated PixelCNN layer: ``tanh(a) * sigmoid(b)`` with ``a, b`` the halves of ``W x + bias + V cond``.

    Arguments and shapes as in `MaskedConv2d`; ``out_channels`` is after the gate, ``weight`` is
    ``[2 * out_channels, C_in, k, k]``.

    Source: van den Oord et al. 2016, arXiv 1606.05328, eq. 2 and 4.
    """

    def __init__(
        self,
        mask_type: str,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        cond_channels: int = 0,
        image_channels: int = 1,
        dilation: int | Sequence[int] = 1,
        weight_norm: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            mask_type,
            in_channels,
            2 * out_channels,
            kernel_size,
            image_channels=image_channels,
            cond_channels=cond_channels,
            activation="gate",
            dilation=dilation,
            weight_norm=weight_norm,
            backend=backend,
        )
        self.out_channels = out_channels  # after the gate, as the user gave it
