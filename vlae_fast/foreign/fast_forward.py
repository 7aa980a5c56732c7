"""Forwards over the ops for modules that are somebody else's: the module keeps its parameters, hooks and state_dict."""

from __future__ import annotations

import itertools
import warnings
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn.modules.module import _has_any_global_hook

from ..layers.hooked_weight import has_hooks
from .by_op import FORMATS, Cond, Crops, conv_by_op, is_channels_last, linear_by_op
from .layer import Names
from .measured import BETWEEN_LAYERS, MARGIN, PATIENCE, Measured, ratio_of, step_of
from .probe import TOLERANCE, difference, like_of, random_state_kept
from .spec import LinearSpec, Spec
from .swap import defaults_of, method_of_class, own_method, stands_in, swap_of
from .walk import children_of, parameters_of, parts_of
from .watched import Watched, is_transformed

__all__ = ["FORMATS", "FastCall", "FastForward", "Form", "Traits", "fast_forward_of", "has_hooks_inside"]


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


class Form(NamedTuple):
    """What a module computes with one layer: ``activation(layer(x) + cond)``, or crops of it.

    inner: path of the module that has the layer's weight, within the module. names: of its weight and bias.
    """

    inner: str = ""
    names: Names = Names()
    activation: str = "none"
    crops: Crops | None = None
    cond: Cond | None = None


class FastForward(Watched):
    """Stands in for a module's forward where it is one layer, in the module or within it, in a `Form`.

    The module takes its own forward while something within it has a hook, under `torch.func`, in forward mode, for an x
    of another dtype than the weight's, and with further arguments; it has that back for good when something that it
    reads has changed.
    """

    method = "forward"

    def __init__(self, spec: Spec, backend: str, form: Form) -> None:
        super().__init__()
        self.spec, self.backend, self.form = spec, backend, form
        self.inner = tuple(filter(None, form.inner.split(".")))  # the path of the layer
        self.traits, self.measured = Traits(), Measured(off=True)
        self.verify_every, self.calls = 0, 0
        self.live: Tensor | None = None  # boolean, like the weight, where the dead ones are to be zero
        self.further: dict[str, Any] = {}  # arguments behind x, and what they are where nobody gives them
        self._specs: dict[torch.device, Any] = {}

    def install(self, module: nn.Module) -> None:
        self.further = defaults_of(own_method(module, self.method))
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

    def arguments_of(self, args: tuple[Any, ...], by_name: dict[str, Any]) -> tuple[Tensor, ...] | None:
        """x, and the condition where the form has one; None where the call says something else."""
        names = list(self.further)
        count = 1 if self.form.cond is None else 2
        if len(args) > len(names) + 1 or not args:
            if args or len(by_name) != count:
                return None
            args, by_name = tuple(by_name.values())[:1], dict(list(by_name.items())[1:])
        given = dict(zip(names, args[1:], strict=False)) | by_name
        if self.form.cond is not None:
            cond = given.pop(names[0], None)
            args = (args[0], cond)
        if any(name not in self.further or value is not self.further[name] for name, value in given.items()):
            return None
        args = args[:count]
        if not all(isinstance(arg, Tensor) for arg in args):
            return None
        if self.form.cond is not None and (
            args[0].dim() != 4 or args[1].shape != self.form.cond.shape_for(args[0].shape)
        ):
            return None
        return args

    def run(self, module: nn.Module, x: Tensor, *cond: Tensor) -> Any:
        """The module's output by the op, or by its own forward."""
        compiling = torch.compiler.is_compiling()
        if not compiling:
            if is_transformed():
                if not self._maps(module):
                    return self.own(module)(x, *cond)
            elif not self.measured.off and self.measured.prefers_own(x, partial(self._ratio, module, cond)):
                if self.measured.own_calls >= PATIENCE:
                    self._leave_if_hopeless(module, x, cond)
                if swap_of(module, FastForward) is not self:  # given back
                    return own_method(module, self.method)(x, *cond)
                return self.own(module)(x, *cond)
            elif self.give_back_if_changed(module):
                return own_method(module, self.method)(x, *cond)
        if self.inner and has_hooks_inside(module):
            return self.own(module)(x, *cond)
        weight = self.form.names.weight_of(self.layer_of(module))
        if (x.dtype != weight.dtype or self.traits.amp is not None) and not self._takes(x, weight):
            return self.own(module)(x, *cond)
        y = self._compute(module, weight, x, *cond)
        if self.verify_every and not compiling:
            return self._verified(module, x, cond, y)
        return y

    def _compute(self, module: nn.Module, weight: Tensor, x: Tensor, *cond: Tensor) -> Any:
        """The module's output by the op. The weight is read once in a call: to read it may be to compute it."""
        bias, spec = self.form.names.bias_of(self.layer_of(module)), self._spec_on(x.device)
        if isinstance(self.spec, LinearSpec):
            return linear_by_op(x, weight, bias, spec, self.backend)
        images = x if x.dim() == 4 else x[None]
        added = None if self.form.cond is None else self.form.cond.of(module, cond[0], images)
        wanted = self.traits.formats[1 if is_channels_last(images) else 2 * is_channels_last(weight)]
        out = conv_by_op(images, weight, bias, added, spec, self.form.activation, self.form.crops, self.backend)
        if self.form.crops is not None:
            return self.form.crops.kind(y if x.dim() == 4 else y[0] for y in self.form.crops.of(out, x))
        y = out if wanted is None else out.contiguous(memory_format=FORMATS[wanted])
        if self.traits.writable and y is out and torch.is_grad_enabled():
            y = out.clone()  # the op keeps its output for the backward
        return y if x.dim() == 4 else y[0]

    def _leave_if_hopeless(self, module: nn.Module, x: Tensor, cond: tuple[Tensor, ...]) -> None:
        """Takes the fast forward away where it has never been the faster one: what is small is not to wait for it."""
        hopeless = self.owner is module and not cond
        if hopeless and self.measured.is_hopeless(x, partial(self._ratio, module, cond)):
            self.remove(module)

    def _ratio(self, module: nn.Module, cond: tuple[Tensor, ...], x: Tensor) -> float:
        """The time of the module's own forward by that of the op, and of their backwards where there will be one.

        0 where the op, found to be the faster one, gives something else for x: the module has its own forward back.
        """
        if self.give_back_if_changed(module):
            return 0.0
        if has_hooks_inside(module):  # those of a parametrization would be called
            return float("inf")
        weight = self.form.names.weight_of(self.layer_of(module))
        if not self._takes(x, weight):
            return 0.0  # for its own forward to deal with
        weights, names = list(parameters_of(module)), self.form.names

        def fast(leaf: Tensor) -> Any:
            return self._compute(module, names.weight_of(self.layer_of(module)), leaf, *cond)

        def own(leaf: Tensor) -> Any:
            return self.own(module)(leaf, *cond)

        with random_state_kept(x.device):
            more = BETWEEN_LAYERS if x.device.type == "cpu" else 0.0
            ratio = ratio_of(step_of(own, x, weights), step_of(fast, x, weights), x.device, more)
            # its code may ask for the size of x, or compute by other weights as random ones of a probe do not show
            leaf = x.detach().requires_grad_(x.requires_grad)
            if ratio < MARGIN or (why := self._what_is_off(module, fast(leaf), own(leaf))) is None:
                return ratio
        self.give_back(module, why)
        return 0.0

    def _maps(self, module: nn.Module) -> bool:
        """True where the op runs under `torch.func`: code that writes to ``weight.data`` cannot run there."""
        masks = (part._buffers.values() for part in parts_of(module))
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

    def _verified(self, module: nn.Module, x: Tensor, cond: tuple[Tensor, ...], y: Any) -> Any:
        """y, in one of ``verify_every`` calls only where the module's own forward gives the same."""
        self.calls += 1
        if self.calls % self.verify_every:
            return y
        with torch.no_grad(), random_state_kept(x.device):
            why = self._what_is_off(module, y, self.own(module)(x, *cond))
        if why is None:
            return y
        self.give_back(module, why)
        return own_method(module, self.method)(x, *cond)

    def _what_is_off(self, module: nn.Module, y: Any, own: Any) -> str | None:
        """What is wrong with y, given what the module's own forward makes of the same; None where nothing is."""
        pairs = [(y, own)] if isinstance(y, Tensor) else list(zip(y, own, strict=True))
        error = max(difference(have, want) for have, want in pairs)
        if error <= TOLERANCE[pairs[0][0].dtype]:
            return None
        return f"the output of a {type(module).__name__} is off by {error:.1g} of its largest number"

    def _write_zeros(self, layer: Any) -> None:
        """Writes zeros to the dead weights, as the layer's own forward does whenever it runs."""
        weight = getattr(layer, self.form.names.weight)
        if weight.is_meta or type(weight) not in (Tensor, nn.Parameter):
            return
        if self.live is not None and self.watch is not None and self.watch.what_changed() is None:
            weight.data.masked_fill_(~self.live.to(weight.device), 0)

    def _before_save(self, layer: nn.Module, *_: Any) -> None:
        self._write_zeros(layer)


@stands_in
def _forward(module: Any, x: Any = None, *further: Any, **by_name: Any) -> Any:
    record = getattr(module, "_vlae_fast", None)
    if record is None:  # given back, or bound to another module
        return method_of_class(module, "forward")(*_given(x, further), **by_name)
    return _run(record, module, x, further, by_name)


@stands_in
def _call(module: Any, x: Any = None, *further: Any, **by_name: Any) -> Any:
    record = getattr(module, "_vlae_fast", None)
    if record is None:
        return method_of_class(module, "__call__")(*_given(x, further), **by_name)
    return _run(record, module, x, further, by_name)


def _run(record: Any, module: Any, x: Any, further: tuple[Any, ...], by_name: dict[str, Any]) -> Any:
    if isinstance(x, Proxy):  # `torch.fx` traces
        return record.own(module)(x)
    if isinstance(x, Tensor) and not further and not by_name and record.form.cond is None:
        return record.run(module, x)
    args = _given(x, further)
    taken = record.arguments_of(args, by_name)
    if taken is None:  # it is given something that the fast forward does not take
        return record.own(module)(*args, **by_name)
    return record.run(module, *taken)


def _given(x: Any, further: tuple[Any, ...]) -> tuple[Any, ...]:
    return () if x is None and not further else (x, *further)


FastForward.function = _forward


class FastCall(FastForward):
    """Stands in for a ``__call__`` of the module's own class, which goes around `nn.Module.__call__` and its hooks."""

    method = "__call__"


FastCall.function = _call


def _after_load(module: nn.Module, *_: Any) -> None:
    """Looks for changes at once, not in the next forward: a compiled one looks at nothing."""
    record = swap_of(module, FastForward)
    if record is not None and not record.give_back_if_changed(module):
        record.before_copy(module)


def fast_forward_of(module: nn.Module) -> FastForward | None:
    """The FastForward installed on a module, if any."""
    return swap_of(module, FastForward)


def has_hooks_inside(module: nn.Module) -> bool:
    """True where a part of a module, other than the module itself, has a hook that calling the part would fire."""
    return _has_any_global_hook() or any(
        has_hooks(part) for _, child in children_of(module) for part in parts_of(child)
    )
