"""`info`: versions, and which backend runs what."""

from __future__ import annotations

import platform

import torch
import typer

import vlae_fast as vf

from .. import backends
from .app import app, user_errors


@app.command()
@user_errors
def info() -> None:
    """Versions, threads, backends and reasons."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    python = f"Python {platform.python_version()}, {platform.machine()}"
    typer.echo(f"vlae_fast {vf.__version__}, torch {torch.__version__}, {python}")
    typer.echo(
        f"threads {torch.get_num_threads()}, torch's CPU code {torch.backends.cpu.get_cpu_capability()}, GPU {gpu}"
    )
    typer.echo(backends.report())
