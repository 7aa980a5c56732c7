"""`info`: versions, and which backend runs what."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from typing import Any

import torch
import typer

import vlae_fast as vf

from .. import backends
from ..backends.table import Backend, devices, taken
from .app import Json, app, as_json, user_errors

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@app.command()
@user_errors
def info(json: Json = False) -> None:
    """Versions, threads, backends and reasons."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    if json:
        as_json({
            "vlae_fast": vf.__version__, "torch": torch.__version__, "python": platform.python_version(),
            "machine": platform.machine(), "threads": torch.get_num_threads(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "backends": [_row(row) for row in backends.TABLE],
            "auto": list(_auto()),
        })  # fmt: skip
        return
    python = f"Python {platform.python_version()}, {platform.machine()}"
    typer.echo(f"vlae_fast {vf.__version__}, torch {torch.__version__}, {python}")
    typer.echo(
        f"threads {torch.get_num_threads()}, torch's CPU code {torch.backends.cpu.get_cpu_capability()}, GPU {gpu}"
    )
    typer.echo(backends.report())


def _auto() -> Iterator[dict[str, Any]]:
    """The rows that ``auto`` takes, for each kind of device and dtype that there is."""
    for device in devices():
        for dtype in _DTYPES:
            try:
                x = torch.zeros(1, dtype=dtype, device=device)
            except (TypeError, RuntimeError):  # Apple's GPUs have no float64
                continue
            yield {"device": device, "dtype": str(dtype).removeprefix("torch."), "ops": taken(x)}


def _row(row: Backend) -> dict[str, Any]:
    """A backend, why it cannot run here at all (null: it can), and the same of each op."""
    absent = row.absent()
    ops = {} if absent else {op: row.why_not(op) for op in backends.OPS}
    return {"name": row.name, "absent": absent, "ops": ops}
