"""Triton without a GPU: kernels are compiled for sm_90 as ever, and a launch is written down where it would start.

What stands in is the driver, below `triton.jit` and its caches.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from vlae_fast.backends import table
from vlae_fast.kept import plans_anew

SHARED_BYTES, THREADS = 232_448, 1024  # of a block on an H100, at most


class Launched(NamedTuple):
    kernel: str
    binary: str  # its hash
    grid: tuple[int, int, int]
    args: tuple[Any, ...]


class Driver:
    """Of one GPU. ``launched`` has what would have been launched; None: nobody asks."""

    def __init__(self) -> None:
        self.launched: list[Launched] | None = None
        self.utils = self

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": SHARED_BYTES}

    def load_binary(self, *args: Any) -> tuple[Any, ...]:
        """Module and function, which Triton looks for again where there is none; registers, spills, threads."""
        return "module", "function", 0, 0, THREADS

    def unload_module(self, module: Any) -> None:
        pass

    def launcher_cls(self, source: Any, metadata: Any) -> Any:
        def launch(x: int, y: int, z: int, stream: int, function: Any, packed: Any, own: Any, *args: Any) -> None:
            if self.launched is not None:
                self.launched.append(Launched(metadata.name, metadata.hash, (x, y, z), args[2:]))  # behind two hooks

        return launch


def on_the_host() -> Any:
    """Triton's row takes tensors on the CPU."""
    able: dict[str, Any] = {"devices": ("cuda", "cpu"), "absent": lambda: None, "only_named": lambda op: None}
    rows = tuple(row._replace(**able) if row.name == "triton" else row for row in table.TABLE)
    return mock.patch.object(table, "TABLE", rows)


@contextmanager
def without_gpu() -> Iterator[Driver]:
    """Calls of Triton's row run up to the driver, whose stand-in is given."""
    stand_in = Driver()
    with on_the_host(), plans_anew(), mock.patch.object(driver, "_active", stand_in):
        yield stand_in
