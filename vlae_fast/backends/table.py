"""The table of backends: who can run an op, on which devices, and why not.

A backend is a row here and a namespace of functions named like the ops. ``auto`` takes the first row that is able; a
named backend runs or raises with its reason. Nothing falls back silently.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from .. import reference
from ..plan import Plan
from . import cpu, cuda, triton
from . import torch as portable

OPS = reference.OPS


class Backend(NamedTuple):
    """A row of the table."""

    name: str  # as users ask for it
    devices: tuple[str, ...]  # empty: every device
    dtypes: Mapping[str, tuple[torch.dtype, ...]]  # by op; an op without an entry takes every floating-point dtype
    namespace: ModuleType  # its functions are named like the ops
    absent: Callable[[], str | None]  # why the whole backend cannot run here, or None
    detail: Callable[[], str] = lambda: ""  # text that `report` adds to a backend that is there
    only_named: Callable[[str], str | None] = lambda op: None  # why ``auto`` passes it over for an op, or None
    steps_at_once: Callable[[int], int] = lambda n_layers: 1  # steps that a call of made_inverse takes
    lacks: Callable[[Plan], str | None] = lambda plan: None  # what of a plan it has not, or None

    def why_not(self, op: str, x: Tensor | None = None, plan: Plan | None = None) -> str | None:
        """Reason why ``op`` cannot run here (on a tensor like ``x``, for a plan), or None when it can."""
        if x is not None and self.devices and x.device.type not in self.devices:
            return f"runs on {', '.join(self.devices)}, the input is on {x.device.type}"
        if (reason := self.absent()) is not None:  # after the device: to look for a GPU starts CUDA
            return reason
        if not hasattr(self.namespace, op):
            return f"has no {op}"
        dtypes = self.dtypes.get(op, ())
        if x is not None and dtypes and x.dtype not in dtypes:
            return f"computes in {', '.join(map(_short, dtypes))}, the input is {_short(x.dtype)}"
        return None if plan is None else self.lacks(plan)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _cuda_only_named(op: str) -> str | None:
    if op == "made_inverse" and triton.why_not() is None:
        return "not timed against triton on a GPU yet: name it"
    return None


# The CPU kernels of masked_conv take bfloat16 as well, as storage: there they are faster than PyTorch's in the cases of
# benchmarks/cases.py, also where the processor multiplies bfloat16. Those of masked_linear are so in some shapes only.
_CPU = dict.fromkeys(OPS, (torch.float32,)) | {"masked_conv": (torch.float32, torch.bfloat16)}
_GPU = dict.fromkeys(OPS, (torch.float32, torch.bfloat16, torch.float16))
TABLE = (
    Backend("cpu", ("cpu",), _CPU, cpu, cpu.why_not, lambda: f": {', '.join(cpu.isas())}"),
    Backend("cuda", ("cuda",), _GPU, cuda, cuda.why_not, cuda.detail, _cuda_only_named, cuda.steps_at_once, cuda.lacks),
    Backend(
        "triton",
        triton.devices(),
        _GPU,
        triton,
        triton.why_not,
        triton.detail,
        triton.only_named,
        lacks=triton.lacks,
    ),
    Backend("torch", (), {}, portable, portable.why_not),
    Backend("reference", (), {}, reference, lambda: None),
)
NAMES = ("auto", *(row.name for row in TABLE))


def check_name(op: str, backend: str) -> None:
    """Raises ValueError where there is no such backend; ``op`` is the caller's name."""
    if backend not in NAMES:
        raise ValueError(f"{op}: backend must be one of {', '.join(NAMES)}, got {backend!r}")


def pick(op: str, x: Tensor, backend: str = "auto", plan: Plan | None = None) -> Backend:
    """The row that runs ``op`` on a tensor like ``x``, for a plan where there is one.

    Raises:
        ValueError: the name is unknown. RuntimeError: the named backend cannot run this; says why.
    """
    check_name(op, backend)
    reasons = []
    for row in TABLE:
        if backend in ("auto", row.name):
            reason = (row.only_named(op) if backend == "auto" else None) or row.why_not(op, x, plan)
            if reason is None:
                return row
            reasons.append(f"{row.name}: {reason}")
    raise RuntimeError(f"{op}: backend {backend!r} cannot run this: " + "; ".join(reasons))


def _ability(row: Backend, op: str) -> str:
    passed_over = row.only_named(op)
    return row.why_not(op) or ("yes" if passed_over is None else f"yes; auto passes it over: {passed_over}")


def report() -> str:
    """The table as text: a line per backend and op, with the reason where it cannot run."""
    lines = []
    for row in TABLE:
        reason = row.absent()
        lines.append(f"{row.name:<10} {'absent: ' + reason if reason else 'ready' + row.detail()}")
        if reason is None:
            lines += [f"  {op:<16} {_ability(row, op)}" for op in OPS]
    return "\n".join(lines)
