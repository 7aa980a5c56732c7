"""Launches of which all but the tensors is known, and their options: block sizes of a table, torch's precision."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.compiler import CompiledKernel

TABLE = Path(__file__).with_name("configs.json")
Config = dict[str, int]  # block sizes (BM, BN, BK, ...), num_warps, num_stages
New = Callable[[], Tensor]  # allocates
Launch = Callable[..., None]  # takes tensors, None for one that is not there


class Like(NamedTuple):
    """What of a tensor plans may depend on. Where strides count, a plan is given them beside it."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


def memory(shape: Sequence[int], like: Like, dtype: torch.dtype | None = None, *, images: bool = False) -> New:
    """What allocates a tensor of a shape, by default in like's dtype; of images, ``[B, C, H, W]``, in channels_last."""
    order = (0, 2, 3, 1) if images else range(len(shape))
    strides, step = [0] * len(shape), 1
    for axis in reversed(order):
        strides[axis], step = step, step * max(shape[axis], 1)
    return partial(torch.empty_strided, tuple(shape), tuple(strides), dtype=dtype or like.dtype, device=like.device)


def prepared(kernel: Any, grid: tuple[int, ...], **values: Any) -> Launch:
    """The launch of a kernel on tensors, its first arguments in turn; ``values`` are all others, and launch options.

    In every launch Triton looks for the binary anew, by every argument and option: half of what a call costs the host.
    Here tensors alone change, of which a binary depends on dtype and alignment. So the binary for the first tensors
    that are all aligned, as memory of their own is, is kept and launched on others like them, as Triton's documentation
    has it: ``binary[grid](*args)``.
    """
    names = kernel.arg_names[-len(values.keys() & set(kernel.arg_names)) :]
    rest, launch = tuple(values.pop(name) for name in names), kernel[grid]  # by place: names take longer in every call
    kept: tuple[tuple[Any, ...], Launch] | None = None  # dtypes, and a launch of the binary

    def run(*tensors: Any) -> None:
        nonlocal kept
        if kept is not None and _are_like(tensors, kept[0]):
            kept[1](*tensors, *rest)
            return
        made = launch(*tensors, *rest, **values)
        # None from the interpreter. On other GPUs more of a tensor counts.
        if kept is None and isinstance(made, CompiledKernel) and made.metadata.target.backend == "cuda":
            if _are_like(tensors, dtypes := _dtypes(tensors)):
                kept = dtypes, made[(*grid, 1, 1)[:3]]

    return run


def _dtypes(tensors: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(_dtypes(t) if isinstance(t, tuple) else None if t is None else t.dtype for t in tensors)


def _are_like(tensors: tuple[Any, ...], dtypes: tuple[Any, ...]) -> bool:
    """True where tensors, None or tuples of them have the dtypes, None or tuples of them, and are aligned."""
    addresses = 0
    for tensor, dtype in zip(tensors, dtypes, strict=False):  # of one launch; to be strict takes time
        if tensor is None or dtype is None:
            if tensor is not dtype:
                return False
        elif type(dtype) is tuple:
            if not _are_like(tensor, dtype):
                return False
        elif tensor.dtype is dtype:
            addresses |= tensor.data_ptr()
        else:
            return False
    return addresses % 16 == 0


@lru_cache
def _table() -> dict[str, dict[str, Config]]:
    table: dict[str, dict[str, Config]] = json.loads(TABLE.read_text(encoding="utf-8"))
    return table


def size_class(*sizes: int) -> str:
    """Key of a problem in the table: each size rounded up to a power of two. The batch is never among the sizes."""
    return "-".join(str(triton.next_power_of_2(max(size, 1))) for size in sizes)


def device_names(device: torch.device) -> tuple[str, ...]:
    """Parts of the table that are a device's own, the first that has an entry first: its name, its architecture."""
    if device.type != "cuda":
        return ("interpreter",)
    major, minor = torch.cuda.get_device_capability(device)
    return torch.cuda.get_device_name(device), f"sm_{major}{minor}"


@lru_cache
def _config(kernel: str, dtype: torch.dtype, sizes: tuple[int, ...], device: torch.device) -> Config:
    short = f"{kernel}/{str(dtype).removeprefix('torch.')}"
    for table in (*(_table().get(name, {}) for name in device_names(device)), _table()["default"]):
        for key in (f"{short}/{size_class(*sizes)}", short):
            if key in table:
                # the default for the fusion of a product and a sum into one rounding is not the same in all releases
                return {**table[key], "enable_fp_fusion": True}
    raise KeyError(f"configs.json has no entry {short!r}")


def config(kernel: str, x: Tensor | Like, *sizes: int) -> Config:
    """The configuration of a kernel for the device and dtype of x: the device's own for these sizes, else its
    architecture's, else a default.

    ``sizes`` are channels or units: what a model fixes.
    """
    return _config(kernel, x.dtype, sizes, x.device).copy()


def cdiv(a: int, b: int) -> int:
    """`triton.cdiv`, which on the host takes 1.6 us a time."""
    return -(-a // b)


def shrunk(block: int, size: int, least: int = 16) -> int:
    """``block``, or less where the problem is smaller; ``least`` is the size that a matrix instruction needs."""
    return min(block, max(least, 1 << max(size - 1, 0).bit_length()))


def limit_warps(config: Config, warps: int) -> None:
    """Takes at most so many warps. A limit of registers makes room for programs: it grows as their warps get fewer."""
    before, config["num_warps"] = config["num_warps"], min(config["num_warps"], warps)
    if "maxnreg" in config:
        config["maxnreg"] = min(255, config["maxnreg"] * before // config["num_warps"])


def conv_precision(dtype: torch.dtype) -> str:
    """``input_precision`` of `tl.dot` for convolutions: PyTorch rounds them to TF32 unless it is told otherwise."""
    if dtype != torch.float32:
        return "ieee"
    return "tf32" if torch.backends.cudnn.conv.fp32_precision == "tf32" else "ieee"  # type: ignore[attr-defined]


def matmul_precision(dtype: torch.dtype) -> str:
    """As `conv_precision`, for matrix products: float32 unless `torch.set_float32_matmul_precision` allows TF32."""
    return "tf32" if dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"
