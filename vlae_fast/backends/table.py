"""The table of backends: who can run an op, on which devices, and why not.

A backend is a row here and a namespace of functions named like the ops. ``auto`` takes the first row that is able; a
named backend runs or raises with its reason. Nothing falls back silently: where ``auto`` runs a loop without kernels,
a warning says so.
"""

from __future__ import annotations

import warnings
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
LOOPS = tuple(op for op in OPS if op.startswith(("made_", "pixelcnn_")))  # over pixels or dimensions


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
    lacks: Callable[[Plan, Tensor | None], str | None] = lambda plan, like: None  # of a plan, for weights like these
    stores: tuple[torch.dtype, ...] = ()  # in what it holds weights and activations of a plan beside the noise's dtype

    def why_not(
        self, op: str, x: Tensor | None = None, plan: Plan | None = None, dtype: torch.dtype | None = None
    ) -> str | None:
        """Reason why ``op`` cannot run here (on a tensor like ``x``, for a plan, held in a dtype), or None."""
        if x is not None and self.devices and x.device.type not in self.devices:
            return f"runs on {', '.join(self.devices)}, the input is on {x.device.type}"
        if (reason := self.absent()) is not None:  # after the device: to look for a GPU starts CUDA
            return reason
        if not hasattr(self.namespace, op):
            return f"has no {op}"
        dtypes = self.dtypes.get(op, ())
        if x is not None and dtypes and x.dtype not in dtypes:
            return f"computes in {', '.join(map(_short, dtypes))}, the input is {_short(x.dtype)}"
        if x is not None and dtype is not None and dtype not in (x.dtype, *self.stores):
            own = _short(x.dtype)
            return f"holds a plan in the dtype of its noise, {own}: give it a decoder in {_short(dtype)}"
        return None if plan is None else self.lacks(plan, x)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _cuda_only_named(op: str) -> str | None:
    if op == "made_inverse" and triton.why_not() is None:
        return "not timed against triton on a GPU yet: name it"
    return None


# The CPU kernels of masked_conv take bfloat16 as well, by matrix tiles or as storage: they are faster than PyTorch's in
# the cases of benchmarks/cases.py. Those of masked_linear are so in some shapes only.
_CPU: dict[str, tuple[torch.dtype, ...]] = dict.fromkeys(OPS, (torch.float32,))
_CPU |= dict.fromkeys(("masked_conv", "made_inverse"), (torch.float32, torch.bfloat16))


def _cpu_detail() -> str:
    products = [name for name in cpu.isas(torch.bfloat16) if name not in cpu.isas()]
    products += ["amx (masked_conv)"] if cpu.has_matrix_tiles() else []
    of_bfloat16 = f"by {', '.join(products)}" if products else "widened: without products of its own"
    return f": {', '.join(cpu.isas())}; bfloat16 {of_bfloat16}"


_GPU = dict.fromkeys(OPS, (torch.float32, torch.bfloat16, torch.float16))
TABLE = (
    Backend("cpu", ("cpu",), _CPU, cpu, cpu.why_not, _cpu_detail, stores=(torch.bfloat16,)),
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
    Backend("torch", (), {}, portable, portable.why_not, lambda: ": PyTorch's own products, on any device"),
    Backend("reference", (), {}, reference, lambda: None, stores=(torch.bfloat16, torch.float16)),
)
NAMES = ("auto", *(row.name for row in TABLE))


def check_name(op: str, backend: str) -> None:
    """Raises ValueError where there is no such backend; ``op`` is the caller's name."""
    if backend not in NAMES:
        raise ValueError(f"{op}: backend must be one of {', '.join(NAMES)}, got {backend!r}")


def pick(
    op: str, x: Tensor, backend: str = "auto", plan: Plan | None = None, dtype: torch.dtype | None = None
) -> Backend:
    """The row that runs ``op`` on a tensor like ``x``, for a plan where there is one, held in `dtype` (None: x's).

    Raises:
        ValueError: the name is unknown. RuntimeError: the named backend cannot run this; says why.
    """
    check_name(op, backend)
    row, reasons = _first_able(op, x, backend, plan, dtype)
    if row is None:
        raise RuntimeError(f"{op}: backend {backend!r} cannot run this: " + "; ".join(reasons))
    if backend == "auto" and not row.devices and op in LOOPS:
        _warn_once(op, row, x, plan)
    return row


def _first_able(
    op: str, x: Tensor, backend: str, plan: Plan | None, dtype: torch.dtype | None = None
) -> tuple[Backend | None, list[str]]:
    """The row, None where none is able, and why those before it are not."""
    reasons: list[str] = []
    auto = backend == "auto"
    for row in TABLE:
        if auto or backend == row.name:
            reason = (row.only_named(op) if auto else None) or row.why_not(op, x, plan, dtype)
            if reason is None and auto and not row.devices and dtype not in (None, x.dtype):
                reason = "would take hundreds of times as long: name it, or leave dtype out"
            if reason is None:
                return row, reasons
            reasons.append(f"{row.name}: {reason}")
    return None, reasons


_warned: list[str] = []  # what was said in this process


def _warn_once(op: str, row: Backend, x: Tensor, plan: Plan | None) -> None:
    """Says which row runs a loop, and what would be faster."""
    if not _warned:
        _warned.append(f"{op}: {_without_kernels(op, row, x, plan)}")
        warnings.warn(f"{_warned[0]}. Said once in a process")


_REMEDIES = (
    ("not built because no C++ compiler", "install g++ 11 or clang++ 14, then vlae_fast again"),
    ("not built because vlae_fast was not installed", "`pip install` it"),
    ("failed to load", "install vlae_fast again"),
    ("runs on cpu", "move the model to the CPU"),
    ("computes in", "convert the model"),
)


def _without_kernels(op: str, row: Backend, x: Tensor, plan: Plan | None = None) -> str:
    """Why ``auto`` runs an op by a row without kernels, and what would help."""
    with_kernels = [other for other in TABLE if other.devices]
    of_device = [other for other in with_kernels if x.device.type in other.devices]
    reasons = []
    for other in of_device or [other for other in with_kernels if "cpu" in other.devices]:
        reason = other.why_not(op, x, plan)
        if reason is not None:
            remedy = next((f": {what}" for start, what in _REMEDIES if reason.startswith(start)), "")
            reasons.append(f"{other.name} {reason}{remedy}")
    slower = "several times" if row.name == "torch" else "hundreds of times"
    what = f"{row.name} runs it on {x.device.type} in {_short(x.dtype)}, {slower} slower than kernels do"
    return "; ".join([what, *reasons])


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
    for device in devices():
        lines += _taken(torch.zeros(1, device=device))
    return "\n".join(lines)


def devices() -> tuple[str, ...]:
    """The types of devices that there are: the CPU, and an accelerator where torch has one."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return ("cpu", *([accelerator.type] if accelerator is not None else []))


def taken(x: Tensor) -> dict[str, str | None]:
    """The row that ``auto`` takes of each op for tensors like x; None where none is able."""
    return {op: None if row is None else row.name for op, row in _first_rows(x).items()}


def _first_rows(x: Tensor) -> dict[str, Backend | None]:
    return {op: _first_able(op, x, "auto", None)[0] for op in OPS}


def _taken(x: Tensor) -> list[str]:
    """Which rows ``auto`` takes for tensors like x, and what would be faster."""
    rows = {op: row for op, row in _first_rows(x).items() if row is not None}
    lines = [f"auto       {_short(x.dtype)} on {x.device.type}:"]
    for name in dict.fromkeys(row.name for row in rows.values()):
        lines.append(f"  {name:<16} {', '.join(op for op, row in rows.items() if row.name == name)}")
    slow = [_without_kernels(op, row, x) for op, row in rows.items() if not row.devices and op in LOOPS]
    lines += [f"  {'':<16} {text}" for text in dict.fromkeys(slow)]
    return lines
