"""Forwards over the ops for modules that are somebody else's: the module keeps its parameters, hooks and state_dict."""

from __future__ import annotations

import warnings
from itertools import product
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..masks import MASK_TYPES, conv_mask, linear_mask, live_taps
from ..ops import masked_conv, masked_linear
from .probe import ConvTaps, ProbeError


class ConvSpec(NamedTuple):
    """How a convolution's weight becomes one of `masked_conv`."""

    mask_type: str
    image_channels: int
    side: int  # of the op's kernel
    pad: tuple[int, int, int, int]  # of the weight: left, right, top, bottom; negative cuts off what is dead
    live: Tensor | None  # boolean, like the weight, where the mask type alone lets too much live

    @property
    def op(self) -> str:
        return "masked_conv"

    def __str__(self) -> str:
        channels = f" of {self.image_channels} image channels" if self.image_channels > 1 else ""
        return f"masked_conv {self.mask_type}{channels} {self.side}x{self.side}"


class LinearSpec(NamedTuple):
    """The mask of a linear layer as degrees, where there are such, with the units in the order of their degrees."""

    adjacency: Tensor | None
    in_degrees: Tensor | None = None
    out_degrees: Tensor | None = None
    in_order: Tensor | None = None  # None: the order that they have
    out_order: Tensor | None = None
    out_back: Tensor | None = None  # from that order to the layer's own

    @property
    def op(self) -> str:
        return "masked_linear"

    def __str__(self) -> str:
        return "masked_linear by " + ("adjacency" if self.adjacency is not None else "degrees")


def conv_spec(taps: ConvTaps) -> ConvSpec:
    """The cheapest mask type that lets live what lives; raises ProbeError where none does, or none saves work."""
    (kh, kw), (cy, cx) = taps.live.shape[2:], taps.centre
    alive = {(i - cy, j - cx) for i, j in taps.live.flatten(0, 1).any(0).nonzero().tolist()}
    side = 1 + 2 * max(abs(d) for tap in alive for d in tap)
    pad = (side // 2 - cx, side // 2 + 1 - kw + cx, side // 2 - cy, side // 2 + 1 - kh + cy)
    live, inside = F.pad(taps.live, pad), F.pad(torch.ones_like(taps.live), pad)
    covers = [(len(live_taps(kind, (side, side))), kind) for kind in MASK_TYPES]
    counts = {kind: count for count, kind in sorted(covers)}  # the cheapest first
    for kind, channels in product(counts, (1, 2, 3, 4)):
        if live.shape[0] % channels == 0 and side > 1:
            mask = conv_mask(kind, live.shape, image_channels=channels, device=live.device)
            if (mask & inside).equal(live) and counts[kind] < kh * kw + _is_cropped(taps):
                return ConvSpec(kind, channels, side, pad, None)
    for kind, count in counts.items():
        if alive <= set(live_taps(kind, (side, side))):
            if count < kh * kw + _is_cropped(taps):
                return ConvSpec(kind, 1, side, pad, taps.live)
            raise ProbeError(f"the mask that covers it has {count} taps, its own kernel {kh * kw}: nothing to save")
    ahead = max(alive)
    raise ProbeError(f"it reads ahead, at (dy, dx) = {ahead}: no mask of a PixelCNN covers it")


def _is_cropped(taps: ConvTaps) -> bool:
    """Whether more than the image was computed, and the rest of it thrown away, to get such taps."""
    (kh, kw), (cy, cx) = taps.live.shape[2:], taps.centre
    return (2 * cy + 1, 2 * cx + 1) != (kh, kw)


def linear_spec(live: Tensor) -> LinearSpec:
    """Degrees that make the mask where it has them (its rows are nested sets), else the mask; raises ProbeError."""
    if live.all():
        raise ProbeError("none of its weights is dead: nothing to save")
    in_degrees = live.shape[0] - live.sum(0)  # seen by fewer outputs: of a higher degree
    out_degrees = torch.where(live, in_degrees, -1).amax(1)
    if not linear_mask(in_degrees, out_degrees).equal(live):
        return LinearSpec(live)
    (in_sorted, in_order), (out_sorted, out_order) = (d.sort(stable=True) for d in (in_degrees, out_degrees))
    in_place, out_place = in_sorted.equal(in_degrees), out_sorted.equal(out_degrees)
    orders = None if in_place else in_order, *((None, None) if out_place else (out_order, out_order.argsort()))
    return LinearSpec(None, in_sorted, out_sorted, *orders)


Spec = ConvSpec | LinearSpec


class FastForward:
    """What an accelerated module has in place of its forward: a method of an object that is copied and pickled with it.

    Where a layer within the module is given, the module is ``activation(layer(x))``; it takes its own forward while
    something within it has a hook.
    """

    def __init__(
        self, module: nn.Module, spec: Spec, backend: str, layer: nn.Module | None = None, activation: str = "none"
    ) -> None:
        self.module, self.layer = module, cast(Any, module if layer is None else layer)
        self.spec, self.backend, self.activation = spec, backend, activation
        self.before = vars(module).get("forward")
        self._masks = {name: buffer.clone() for name, buffer in self.layer.named_buffers()}

    def install(self) -> None:
        self.module.forward = self.forward
        self._on_load = self.module.register_load_state_dict_post_hook(self._check_masks)

    def _check_masks(self, *_: Any) -> None:
        """After a state_dict was loaded: another mask is another function."""
        now = dict(self.layer.named_buffers())
        changed = [n for n, was in self._masks.items() if not (n in now and now[n].equal(was.to(now[n])))]
        if changed:
            self.remove()
            name = type(self.module).__name__
            warnings.warn(
                f"accelerate: load_state_dict changed {changed[0]} of a {name}, which has its own forward back: "
                "accelerate again after loading",
                stacklevel=2,
            )

    def remove(self) -> None:
        self._on_load.remove()
        if getattr(vars(self.module).get("forward"), "__self__", None) is not self:
            return  # a changed mask did it
        if self.before is None:
            del self.module.forward
        else:
            self.module.forward = self.before

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        if self.layer is not self.module and has_hooks_inside(self.module):
            own = type(self.module).forward if self.before is None else self.before
            return own(*([self.module] if self.before is None else []), *args, **kwargs)
        (x,) = (*args, *kwargs.values())  # by whatever name the module calls it
        run = self._linear if isinstance(self.spec, LinearSpec) else self._conv
        return run(x, self.spec)

    def _conv(self, x: Tensor, spec: Any) -> Tensor:
        weight = self.layer.weight
        if spec.live is not None:
            weight = torch.where(_on(spec.live, x), weight, 0)
        if any(spec.pad):
            weight = F.pad(weight, spec.pad)
        y = masked_conv(
            x if x.dim() == 4 else x[None],
            weight,
            self.layer.bias,
            mask_type=spec.mask_type,
            image_channels=spec.image_channels,
            activation=self.activation,
            backend=self.backend,
        )
        return y if x.dim() == 4 else y[0]

    def _linear(self, x: Tensor, spec: Any) -> Tensor:
        weight, rows = self.layer.weight, x.reshape(-1, x.shape[-1])
        in_order, out_order = _on(spec.in_order, x), _on(spec.out_order, x)
        if in_order is not None:
            rows, weight = rows.index_select(1, in_order), weight.index_select(1, in_order)
        if out_order is not None:
            weight = weight.index_select(0, out_order)
        y = masked_linear(
            rows,
            weight,
            self.layer.bias if out_order is None or self.layer.bias is None else self.layer.bias[out_order],
            in_degrees=_on(spec.in_degrees, x),
            out_degrees=_on(spec.out_degrees, x),
            adjacency=_on(spec.adjacency, x),
            backend=self.backend,
        )
        if out_order is not None:
            y = y.index_select(1, _on(spec.out_back, x))
        return y.reshape(*x.shape[:-1], y.shape[-1])


def has_hooks_inside(module: nn.Module) -> bool:
    """Whether a part of a module, other than the module itself, has a hook that calling the part would fire."""
    return any(
        part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks
        for part in module.modules()
        if part is not module
    )


def _on(t: Tensor | None, x: Tensor) -> Any:
    """Models move between devices; what is no buffer of theirs follows."""
    return None if t is None else t.to(x.device)
