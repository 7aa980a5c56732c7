"""`models`: what ships with the package, and what a run can be trained to."""

from __future__ import annotations

import dataclasses

import typer

from .. import checkpoint
from ..models.presets import PRESETS
from .app import Json, app, as_json, user_errors


@app.command()
@user_errors
def models(json: Json = False) -> None:
    """List the models that ship, how good each is, how to sample it."""
    found = checkpoint.shipped()
    if json:
        as_json({"models": [dataclasses.asdict(model) for model in found], "presets": list(PRESETS)})
        return
    for model in found:
        typer.echo(f"{model.name}: {model.data}, {model.figure}, {model.size / 1e6:.1f} MB")
        typer.echo(f"    vlae-fast sample --model {model.name}")
    typer.echo(f"to train: vlae-fast train --preset NAME, one of {', '.join(PRESETS)}")
    typer.echo('to fetch from the Hugging Face Hub: vf.VLAE.from_pretrained("user/model").save_pretrained(FOLDER)')
