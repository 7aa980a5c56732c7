"""The table of backends: who can run an op, on which devices, and why not.

A backend is a row here and a namespace of functions named like the ops. ``auto`` takes the first row that is able; a
named backend runs or raises with its reason. Nothing falls back silently.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import native, reference, triton_kernels

OPS = ("masked_conv", "masked_linear", "made_inverse", "pixelcnn_sample")


class Backend(NamedTuple):
    name: str
    devices: tuple[str, ...]  # empty: every device
    dtypes: tuple[torch.dtype, ...]  # empty: every floating-point dtype
    namespace: ModuleType
    absent: Callable[[], str | None]  # why the whole backend cannot run here, or None
    detail: Callable[[], str] = lambda: ""  # what `report` adds to a backend that is there
    more_dtypes: Mapping[str, tuple[torch.dtype, ...]] = MappingProxyType({})  # of single ops
    unfit: Callable[[str, tuple[Any, ...]], str | None] = lambda op, args: None  # why not with these arguments
    only_named: Callable[[], str | None] = lambda: None  # why `auto` passes it over, or None

    def why_not(self, op: str, x: Tensor | None = None, args: tuple[Any, ...] = ()) -> str | None:
        """Reason why ``op`` cannot run here (on a tensor like ``x``, with ``args`` after it), or None when it can."""
        if (reason := self.absent()) is not None:
            return reason
        if not hasattr(self.namespace, op):
            return f"has no {op}"
        if x is not None and self.devices and x.device.type not in self.devices:
            return f"runs on {', '.join(self.devices)}, the input is on {x.device.type}"
        dtypes = self.dtypes_of(op)
        if x is not None and dtypes and x.dtype not in dtypes:
            return f"computes in {', '.join(map(_short, dtypes))}, the input is {_short(x.dtype)}"
        return self.unfit(op, args) if args else None

    def dtypes_of(self, op: str) -> tuple[torch.dtype, ...]:
        """Dtypes that ``op`` takes here; empty: every floating-point dtype."""
        return (*self.dtypes, *self.more_dtypes.get(op, ()))


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# Where bfloat16 pays. Forward + backward against the reference's on two cores with AVX512-BF16, median of five runs:
# masked_conv 1.2x with 12, 64 and 160 channels, 3.0x for 7x7 from 1 to 64 channels. masked_linear depends on the shape,
# 0.85x for 64-640-640-128 at batch 1024, 1.45x at batch 128, 1.03x for 784-1024-1024-1568: it is left to the reference.
_NARROW = MappingProxyType({"masked_conv": (torch.bfloat16,)})
TABLE = (
    Backend(
        "cpu",
        devices=("cpu",),
        dtypes=(torch.float32,),
        more_dtypes=_NARROW,
        namespace=native,
        absent=native.why_not,
        detail=lambda: f": {', '.join(native.isas())}",
    ),
    Backend(
        "triton",
        devices=triton_kernels.devices(),
        dtypes=(torch.float32, torch.bfloat16, torch.float16),
        namespace=triton_kernels,
        absent=triton_kernels.why_not,
        detail=triton_kernels.detail,
        unfit=triton_kernels.unfit,
        only_named=triton_kernels.only_named,
    ),
    Backend("reference", devices=(), dtypes=(), namespace=reference, absent=lambda: None),
)
NAMES = ("auto", *(row.name for row in TABLE))


def pick(op: str, x: Tensor, backend: str = "auto", args: tuple[Any, ...] = ()) -> Backend:
    """The row that runs ``op`` on a tensor like ``x``, with ``args`` after it where the row must see them to tell.

    Raises:
        ValueError: the name is unknown. RuntimeError: the named backend cannot run this; says why.
    """
    if backend not in NAMES:
        raise ValueError(f"{op}: backend must be one of {', '.join(NAMES)}, got {backend!r}")
    reasons = []
    for row in TABLE:
        if backend in ("auto", row.name):
            reason = (row.only_named() if backend == "auto" else None) or row.why_not(op, x, args)
            if reason is None:
                return row
            reasons.append(f"{row.name}: {reason}")
    raise RuntimeError(f"{op}: backend {backend!r} cannot run this: " + "; ".join(reasons))


def report() -> str:
    """The table as text: a line per backend and op, with the reason where it cannot run."""
    lines = []
    for row in TABLE:
        reason = row.absent()
        lines.append(f"{row.name:<10} {'absent: ' + reason if reason else 'ready' + row.detail()}")
        if reason is None:
            lines += [f"  {op:<16} {row.why_not(op) or 'yes'}" for op in OPS]
    return "\n".join(lines)
