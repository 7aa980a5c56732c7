"""Launch options of kernels: block sizes from a shipped table, the precision that torch is set to."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import torch
import triton

TABLE = Path(__file__).with_name("configs.json")
Config = dict[str, int]  # block sizes (BM, BN, BK, ...), num_warps, num_stages


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


def config(kernel: str, x: torch.Tensor, *sizes: int) -> Config:
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
    allowed = torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]
    return "tf32" if dtype == torch.float32 and allowed == "tf32" else "ieee"


def matmul_precision(dtype: torch.dtype) -> str:
    """As `conv_precision`, for matrix products: float32 unless `torch.set_float32_matmul_precision` allows TF32."""
    return "tf32" if dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"
