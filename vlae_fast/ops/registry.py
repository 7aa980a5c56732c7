"""How an op joins PyTorch's dispatcher: schema, implementation, fake, autocast. One call per op.

define/impl and a hand-written `torch.autograd.Function` cost a third of `torch.library.custom_op` per call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

library = torch.library.Library("vlae_fast", "DEF")
_AUTOCAST = ("CPU", "CUDA")


def define(schema: str, impl: Callable, fake: Callable) -> None:
    """Registers ``schema`` with its implementation and its fake (shapes and strides only)."""
    name = schema.partition("(")[0]
    library.define(schema)
    library.impl(name, impl, "CompositeExplicitAutograd")  # every device: the table of backends chooses
    torch.library.register_fake(f"vlae_fast::{name}", fake, lib=library)


def autograd(name: str, apply: Callable) -> None:
    """``apply`` runs on the Autograd key; inside `torch.autograd.Function` call the op through `below_autograd`."""

    def run(*args: Any) -> Any:
        if torch._C._are_functorch_transforms_active():
            raise RuntimeError(f"{name}: torch.func.grad, vjp and jvp are not implemented, use torch.autograd.grad")
        return apply(*args)

    library.impl(name, run, "Autograd")


def no_vmap(name: str, instead: str) -> None:
    """`torch.vmap` says that it cannot map this op: PyTorch's own loop over the samples takes no lists of tensors."""

    def refuse(*args: Any) -> Any:
        raise RuntimeError(f"{name}: torch.vmap is not implemented, {instead}")

    torch.library.register_vmap(f"vlae_fast::{name}", refuse, lib=library)


def vmap_by_loop(name: str) -> None:
    """Under `torch.vmap`, and for batched gradients, an op that returns a list of tensors is called once a sample."""

    def call(batch: int, in_dims: Sequence[int | None], args: Sequence[Any]) -> list[Tensor]:
        op = getattr(torch.ops.vlae_fast, name)
        pairs = list(zip(args, in_dims, strict=True))
        each = [op(*(a if dim is None else a.select(dim, i) for a, dim in pairs)) for i in range(batch)]
        return [torch.stack(outputs) for outputs in zip(*each, strict=True)]

    def run(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        stacked = call(info.batch_size, in_dims, args)
        return stacked, [0] * len(stacked)

    def run_batched(*args: Any) -> list[Tensor]:  # `torch.autograd.grad(is_grads_batched=True)` has a vmap of its own
        level = torch._C._vmapmode_increment_nesting() - 1
        torch._C._vmapmode_decrement_nesting()
        in_dims = [
            0 if isinstance(a, Tensor) and torch._C._functorch.is_legacy_batchedtensor(a) else None for a in args
        ]
        plain = [
            torch._remove_batch_dim(a, level, 1, 0) if dim == 0 else a for a, dim in zip(args, in_dims, strict=True)
        ]
        batch = next(len(a) for a, dim in zip(plain, in_dims, strict=True) if dim == 0)
        return [torch._add_batch_dim(out, 0, level) for out in call(batch, in_dims, plain)]

    torch.library.register_vmap(f"vlae_fast::{name}", run, lib=library)
    library.impl(name, run_batched, "Batched")


def below_autograd(name: str, *args: Any) -> Any:
    with torch._C._AutoDispatchBelowAutograd():
        return getattr(torch.ops.vlae_fast, name)(*args)


class _Refuse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, name: str, *outputs: Tensor) -> tuple[Tensor, ...]:
        ctx.name = name
        return tuple(out.view_as(out) for out in outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise RuntimeError(f"{ctx.name}: double backward is not implemented")


def once_differentiable(name: str, grads: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
    """Gradients that raise, naming the op, when somebody differentiates them again (``create_graph=True``)."""
    if not torch.is_grad_enabled():
        return tuple(grads)
    live = [g.detach().requires_grad_() for g in grads if g is not None]
    refusing = iter(_Refuse.apply(name, *live))
    return tuple(None if g is None else next(refusing) for g in grads)


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
