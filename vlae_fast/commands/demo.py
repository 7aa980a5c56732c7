"""`demo`: the main job on the embedded digits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import training
from ..experiments import demo
from .app import app, user_errors


@app.command("demo")
@user_errors
def demo_command(
    out: Annotated[Path, typer.Option(help="Folder for samples.png, reconstructions.png, checkpoint/")] = Path("out"),
    seconds: Annotated[float, typer.Option(min=1, help="Limit of the training time, in seconds")] = demo.SECONDS,
) -> None:
    """The main job on embedded digits, 2-3 minutes."""
    try:
        found = demo.run(out, seconds=seconds, say=typer.echo)
    except training.Interrupted as interrupt:  # its message advises users of `train`
        raise training.Interrupted("interrupted: the same command starts the demo again") from interrupt
    if found.wrong_images:
        raise RuntimeError(
            f"the samplers disagree: {found.wrong_images} of {found.images} images first differ where the logit is not "
            f"within {demo.GAP:g} of its threshold"
        )
