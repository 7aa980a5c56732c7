"""How an op joins PyTorch's dispatcher: schema, implementation, fake, autocast. One call per op.

define/impl and a hand-written `torch.autograd.Function` cost a third of `torch.library.custom_op` per call.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

library = torch.library.Library("vlae_fast", "DEF")
_AUTOCAST = ("CPU", "CUDA")
_PLAIN = (Tensor, torch.nn.Parameter)  # not their subclasses


def define(schema: str, impl: Callable, fake: Callable) -> None:
    """Registers ``schema`` with its implementation and its fake (shapes and strides only)."""
    name = schema.partition("(")[0]
    library.define(schema)
    library.impl(name, impl, "CompositeExplicitAutograd")  # every device: the table of backends chooses
    torch.library.register_fake(f"vlae_fast::{name}", fake, lib=library)


def autograd(name: str, apply: Callable) -> None:
    """``apply`` runs on the Autograd key; inside `torch.autograd.Function` call the op through `below_autograd`."""
    library.impl(name, apply, "Autograd")


def _in_onnx_export() -> bool:
    return "torch.onnx" in sys.modules and bool(torch.onnx.is_in_onnx_export())


_in_onnx_export._dynamo_marked_constant = True  # type: ignore[attr-defined]  # as torch.compiler.assume_constant_result


def only_plain_torch_follows(name: str, backend: str, *tensors: Tensor | None) -> bool:
    """True where a call is transformed in a way that PyTorch's own operations alone follow.

    Such ways are an export to ONNX, the transforms of torch.func (grad, jvp, jacrev, vmap, ...), and forward-mode
    differentiation whether or not a graph is recorded. A contract then computes by the reference, which PyTorch can
    transform any number of times.

    Raises:
        RuntimeError: a backend was named that cannot be transformed so.
    """
    if _in_onnx_export():
        return True
    if torch.compiler.is_compiling():
        return False
    transformed = torch._C._are_functorch_transforms_active()
    if not transformed and forward_ad._current_level >= 0:
        transformed = any(t is not None and forward_ad.unpack_dual(t).tangent is not None for t in tensors)
    if transformed and backend not in ("auto", "reference"):
        rule = 'torch.func and forward-mode differentiation need backend "auto" or "reference"'
        raise RuntimeError(f"{name}: {rule}, got {backend!r}")
    return bool(transformed)


def only_autograd_looks(*tensors: Tensor | None) -> bool:
    """True where nobody but autograd sees a call on a CPU or a GPU: no mode, subclass, transform, trace, autocast.

    Then `only_plain_torch_follows` is False.

    PyTorch's dispatcher would ask each of them in turn, which takes as long as a layer of a few samples; an op may then
    be computed without it.
    """
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None or _in_onnx_export():
        return False
    if torch._C._len_torch_dispatch_stack() or torch._C._len_torch_function_stack():
        return False
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return False
    if torch._C._is_any_autocast_enabled():
        return False
    for t in tensors:  # a generator takes three times as long
        if t is not None and (type(t) not in _PLAIN or not (t.is_cpu or t.is_cuda)):
            return False
    return True


def only_plain_torch_differentiates(*grads: Tensor) -> bool:
    """True where a backward is itself recorded (``create_graph=True``), or runs for a batch of gradients at once.

    The reference then computes it, which PyTorch differentiates and batches as it does any other code.
    """
    if torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
        return True
    return any(map(torch._C._functorch.is_legacy_batchedtensor, grads))


def below_autograd(name: str, *args: Any) -> Any:
    with torch._C._AutoDispatchBelowAutograd():
        return getattr(torch.ops.vlae_fast, name)(*args)


def autocast(name: str) -> None:
    """Under `torch.autocast` every floating-point tensor argument is cast to the autocast dtype first."""
    for device in _AUTOCAST:
        key = getattr(torch._C.DispatchKey, f"Autocast{device}")

        def run(*args: Any, _key: Any = key, _device: str = device.lower()) -> Any:
            dtype = torch.get_autocast_dtype(_device)
            with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(_key)):
                return getattr(torch.ops.vlae_fast, name)(*(_cast(a, dtype) for a in args))

        library.impl(name, run, f"Autocast{device}")


def _cast(arg: Any, dtype: torch.dtype) -> Any:
    if isinstance(arg, (list, tuple)):
        return [_cast(a, dtype) for a in arg]
    castable = isinstance(arg, Tensor) and arg.is_floating_point() and arg.dtype != torch.float64
    return arg.to(dtype) if castable else arg
