"""Forwards over the ops for modules that are somebody else's: the module keeps its parameters, hooks and state_dict."""

from __future__ import annotations

import warnings
from itertools import product
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from ..masks import MASK_TYPES, Pair, conv_mask, linear_mask, live_taps
from ..ops import masked_conv, masked_linear
from .changes import Kept, Part
from .probe import ConvTaps, ProbeError, kept_tensors, like_of


class ConvSpec(NamedTuple):
    """How a convolution's weight becomes one of `masked_conv`."""

    mask_type: str
    image_channels: int
    side: int  # of the op's kernel
    pad: tuple[int, int, int, int]  # of the weight: left, right, top, bottom; negative cuts off what is dead
    live: Tensor | None  # boolean, like the weight, where the mask type alone lets too much live
    dilation: Pair = (1, 1)

    @property
    def op(self) -> str:
        return "masked_conv"

    def __str__(self) -> str:
        channels = f" of {self.image_channels} image channels" if self.image_channels > 1 else ""
        dilated = "" if self.dilation == (1, 1) else " dilated " + "x".join(map(str, self.dilation))
        return f"masked_conv {self.mask_type}{channels} {self.side}x{self.side}{dilated}"


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
                return ConvSpec(kind, channels, side, pad, None, taps.dilation)
    for kind, count in counts.items():
        if alive <= set(live_taps(kind, (side, side))):
            if count < kh * kw + _is_cropped(taps):
                return ConvSpec(kind, 1, side, pad, taps.live, taps.dilation)
            raise ProbeError(f"the mask that covers it has {count} taps, its own kernel {kh * kw}: nothing to save")
    ahead = tuple(step * d for step, d in zip(taps.dilation, max(alive), strict=True))
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
        inside = {part for part in self.layer.modules() if part is not self.layer}
        self._parts = [Part.of(part) for part in module.modules() if part not in inside]
        around = [part.module for part in self._parts if part.module is not self.layer]
        tensors = [
            (part, n) for part in around for n, v in (part._buffers | vars(part)).items() if isinstance(v, Tensor)
        ]
        self._kept = [Kept(owner, name) for owner, name in [*kept_tensors(self.layer), *tensors]]
        self._specs: dict[torch.device, Spec] = {like_of(self.layer).device: spec}

    def install(self) -> None:
        self.module.forward = self.forward
        self._on_load = self.module.register_load_state_dict_post_hook(self._after_load)

    def remove(self) -> None:
        self._on_load.remove()
        if fast_forward_of(self.module) is not self:
            return  # a changed mask did it
        if self.before is None:
            del self.module.forward
        else:
            self.module.forward = self.before

    def _after_load(self, *_: Any) -> None:
        """Not only in the next forward: one that is compiled looks at no mask."""
        self._give_back_if_changed()

    def _what_changed(self) -> str | None:
        for part in self._parts:
            if part.module is not self.layer and list(part.module._modules.values()) != part.children:
                return "a part"
            now = vars(part.module)
            for name, value in part.settings.items():
                if now.get(name) != value:
                    return name
        return next((kept.name for kept in self._kept if kept.has_changed()), None)

    def _give_back_if_changed(self) -> bool:
        """Another mask, or another part or setting, is another function."""
        changed = self._what_changed()
        if changed is not None:
            self.remove()
            warnings.warn(
                f"accelerate: {changed} of a {type(self.module).__name__} has changed, and the module has its own "
                "forward back: accelerate again",
                stacklevel=2,
            )
        return changed is not None

    def forward(self, x: Tensor | None = None, **by_name: Tensor) -> Tensor:
        if x is None:
            (x,) = by_name.values()  # by whatever name the module calls it
        if self.layer is not self.module and has_hooks_inside(self.module):
            return self._own(x)
        if not torch.compiler.is_compiling() and self._give_back_if_changed():
            return self._own(x)
        run = self._linear if isinstance(self.spec, LinearSpec) else self._conv
        return run(x, self._spec_on(x.device))

    def _own(self, x: Tensor) -> Tensor:
        return cast(Tensor, type(self.module).forward(self.module, x) if self.before is None else self.before(x))

    def _spec_on(self, device: torch.device) -> Any:
        """Models move between devices; what is no buffer of theirs follows, once."""
        if device not in self._specs:
            moved: Any = {k: v.to(device) for k, v in self.spec._asdict().items() if isinstance(v, Tensor)}
            self._specs[device] = self.spec._replace(**moved)
        return self._specs[device]

    def _conv(self, x: Tensor, spec: Any) -> Tensor:
        weight = self.layer.weight
        if spec.live is not None:
            weight = torch.where(spec.live, weight, 0)
        if any(spec.pad):
            weight = F.pad(weight, spec.pad)
        y = masked_conv(
            x if x.dim() == 4 else x[None],
            weight,
            self.layer.bias,
            mask_type=spec.mask_type,
            image_channels=spec.image_channels,
            activation=self.activation,
            dilation=spec.dilation,
            backend=self.backend,
        )
        return y if x.dim() == 4 else y[0]

    def _linear(self, x: Tensor, spec: Any) -> Tensor:
        weight, bias, rows = self.layer.weight, self.layer.bias, x.reshape(-1, x.shape[-1])
        if spec.in_order is not None:
            rows, weight = rows.index_select(1, spec.in_order), weight.index_select(1, spec.in_order)
        if spec.out_order is not None:
            weight = weight.index_select(0, spec.out_order)
            bias = None if bias is None else bias.index_select(0, spec.out_order)
        y = masked_linear(
            rows,
            weight,
            bias,
            in_degrees=spec.in_degrees,
            out_degrees=spec.out_degrees,
            adjacency=spec.adjacency,
            backend=self.backend,
        )
        if spec.out_order is not None:
            y = y.index_select(1, spec.out_back)
        return y.reshape(*x.shape[:-1], y.shape[-1])


def fast_forward_of(module: nn.Module) -> FastForward | None:
    """What an accelerated module has."""
    owner = getattr(vars(module).get("forward"), "__self__", None)
    return owner if isinstance(owner, FastForward) else None


def has_hooks_inside(module: nn.Module) -> bool:
    """Whether a part of a module, other than the module itself, has a hook that calling the part would fire."""
    return _has_any_global_hook() or any(
        part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks
        for part in module.modules()
        if part is not module
    )
