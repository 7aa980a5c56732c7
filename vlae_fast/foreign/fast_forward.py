"""Forwards over the ops for modules that are somebody else's: the module keeps its parameters, hooks and state_dict."""

from __future__ import annotations

import itertools
import warnings
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from ..ops import masked_conv, masked_linear
from .probe import TOLERANCE, difference, like_of, random_state_kept
from .spec import LinearSpec, Spec
from .swap import method_of_class, own_method, stands_in, swap_of
from .watched import Watched, is_transformed

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


class Traits(NamedTuple):
    """Traits of a module's own forward, beside the numbers, that the fast one keeps.

    formats: of its output, names in `FORMATS`, for images that are contiguous, for those that are channels_last, and
        for contiguous ones where the weight is channels_last; None: neither.
    writable: its output may be written to before the backward.
    amp: the types of device on which autocast was compared, where its code mentions that; else None.
    """

    formats: tuple[str | None, ...] = (None, None, None)
    writable: bool = False
    amp: frozenset[str] | None = None


class FastForward(Watched):
    """Stands in for a module's forward where it is ``activation(layer(x))``; the layer is the module or within it.

    The module takes its own forward while something within it has a hook, under `torch.func`, in forward mode, and for
    an x of another dtype than the weight's; it has that back for good when something that it reads has changed.
    """

    method = "forward"

    def __init__(self, spec: Spec, backend: str, inner: str = "", activation: str = "none") -> None:
        super().__init__()
        self.spec, self.backend, self.activation = spec, backend, activation
        self.inner = tuple(filter(None, inner.split(".")))  # the path of the layer
        self.traits = Traits()
        self.verify_every, self.calls = 0, 0
        self.live: Tensor | None = None  # boolean, like the weight, where the dead ones are to be zero
        self._specs: dict[torch.device, Any] = {}

    def install(self, module: nn.Module) -> None:
        super().install(module)
        # before it is compiled: a dict that grows is another graph
        self._specs.setdefault(like_of(self.layer_of(module)).device, self.spec)
        self.handles = [module.register_load_state_dict_post_hook(_after_load)]
        if self.live is not None:
            self.handles.append(self.layer_of(module).register_state_dict_pre_hook(self._before_save))
            self.before_copy(module)

    def remove(self, module: nn.Module) -> None:
        super().remove(module)
        for handle in self.handles:
            handle.remove()

    def before_copy(self, module: nn.Module) -> None:
        if self.live is not None:
            self._write_zeros(self.layer_of(module))

    def layer_of(self, module: nn.Module) -> Any:
        for name in self.inner:
            module = cast(Any, module._modules[name])
        return module

    def give_back_if_changed(self, module: nn.Module) -> bool:
        """Gives the module's own forward back where a mask, a part or a setting is another: so is the function."""
        if self.owner is module and self.watch is not None and self.watch.what_changed() is None:
            return False
        record, changed = self.look_at(module)
        if changed is not None:
            record.give_back(module, f"{changed} of a {type(module).__name__} has changed")
        return changed is not None

    def give_back(self, module: nn.Module, why: str) -> None:
        for one in (module, self.owner):
            if one is not None:
                self.remove(one)
        warnings.warn(f"accelerate: {why}, and the module has its own forward back: accelerate again", stacklevel=2)

    def run(self, module: nn.Module, x: Tensor) -> Tensor:
        """The module's output by the op, or by its own forward."""
        if not torch.compiler.is_compiling():
            if is_transformed():
                if not self._maps(module):
                    return cast(Tensor, self.own(module)(x))
            elif self.give_back_if_changed(module):
                return cast(Tensor, own_method(module, "forward")(x))
        if self.inner and has_hooks_inside(module):
            return cast(Tensor, self.own(module)(x))
        layer = self.layer_of(module)
        weight = layer.weight
        if (x.dtype != weight.dtype or self.traits.amp is not None) and not self._takes(x, weight):
            return cast(Tensor, self.own(module)(x))
        run = self._linear if isinstance(self.spec, LinearSpec) else self._conv
        y = run(x, weight, layer.bias, self._spec_on(x.device))
        if self.verify_every and not torch.compiler.is_compiling():
            return self._verified(module, x, y)
        return y

    def _maps(self, module: nn.Module) -> bool:
        """True where the op runs under `torch.func`: code that writes to ``weight.data`` cannot run there."""
        masks = (part._buffers.values() for part in module.modules())
        batched = any(torch._C._functorch.is_batchedtensor(t) for t in itertools.chain(*masks) if t is not None)
        return self.live is not None and not batched

    def _takes(self, x: Tensor, weight: Tensor) -> bool:
        """True where the op does with the dtypes what the layer's own code was seen to do."""
        if not torch.is_autocast_enabled(x.device.type):
            return x.dtype == weight.dtype
        seen = self.traits.amp is None or x.device.type in self.traits.amp
        half = x.is_floating_point() and torch.float64 not in (x.dtype, weight.dtype)
        return seen and (half or x.dtype == weight.dtype)

    def _spec_on(self, device: torch.device) -> Any:
        """The spec on a device: its tensors, which are no buffers of the model, follow the model there, once."""
        if device not in self._specs:
            moved: Any = {k: v.to(device) for k, v in self.spec._asdict().items() if isinstance(v, Tensor)}
            self._specs[device] = self.spec._replace(**moved)
        return self._specs[device]

    def _conv(self, x: Tensor, weight: Tensor, bias: Tensor | None, spec: Any) -> Tensor:
        images = x if x.dim() == 4 else x[None]
        wanted = self.traits.formats[1 if _is_channels_last(images) else 2 * _is_channels_last(weight)]
        if spec.live is not None:
            weight = torch.where(spec.live, weight, 0)
        if any(spec.pad):
            weight = F.pad(weight, spec.pad)
        out = masked_conv(
            images,
            weight,
            bias,
            mask_type=spec.mask_type,
            image_channels=spec.image_channels,
            activation=self.activation,
            dilation=spec.dilation,
            backend=self.backend,
        )
        y = out if wanted is None else out.contiguous(memory_format=FORMATS[wanted])
        if self.traits.writable and y is out and torch.is_grad_enabled():
            y = out.clone()  # the op keeps its output for the backward
        return y if x.dim() == 4 else y[0]

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None, spec: Any) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
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

    def _verified(self, module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """y, in one of ``verify_every`` calls only where the module's own forward gives the same."""
        self.calls += 1
        if self.calls % self.verify_every:
            return y
        with torch.no_grad(), random_state_kept(x.device):
            error = difference(y, self.own(module)(x))
        if error <= TOLERANCE[y.dtype]:
            return y
        self.give_back(module, f"the output of a {type(module).__name__} is off by {error:.1g} of its largest number")
        return cast(Tensor, own_method(module, "forward")(x))

    def _write_zeros(self, layer: Any) -> None:
        """Writes zeros to the dead weights, as the layer's own forward does whenever it runs."""
        weight = layer.weight
        if weight.is_meta or type(weight) not in (Tensor, nn.Parameter):
            return
        if self.live is not None and self.watch is not None and self.watch.what_changed() is None:
            weight.data.masked_fill_(~self.live.to(weight.device), 0)

    def _before_save(self, layer: nn.Module, *_: Any) -> None:
        self._write_zeros(layer)


@stands_in
def _forward(module: Any, x: Tensor | None = None, **by_name: Tensor) -> Any:
    if x is None:
        (x,) = by_name.values()  # by whatever name the module calls it
    record = getattr(module, "_vlae_fast", None)
    if record is None:  # given back, or bound to another module
        return method_of_class(module, "forward")(x)
    return record.run(module, x) if isinstance(x, Tensor) else record.own(module)(x)  # `torch.fx` traces


FastForward.function = _forward


def _after_load(module: nn.Module, *_: Any) -> None:
    """Looks for changes at once, not in the next forward: a compiled one looks at nothing."""
    record = swap_of(module, FastForward)
    if record is not None and not record.give_back_if_changed(module):
        record.before_copy(module)


def fast_forward_of(module: nn.Module) -> FastForward | None:
    """The FastForward installed on a module, if any."""
    return swap_of(module, FastForward)


def _is_channels_last(x: Tensor) -> bool:
    """True where torch takes x for channels last, also with one channel, where the strides tell."""
    if x.stride(1) != 1 or x.stride(3) != x.shape[1] or torch._C._functorch.is_batchedtensor(x):
        return False
    return x.is_contiguous(memory_format=torch.channels_last)


def has_hooks_inside(module: nn.Module) -> bool:
    """True where a part of a module, other than the module itself, has a hook that calling the part would fire."""
    return _has_any_global_hook() or any(
        part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks
        for part in module.modules()
        if part is not module
    )
