"""`explore`: a page to touch a model with."""

from __future__ import annotations

import secrets
import webbrowser
from typing import Annotated, cast

import typer

from .. import checkpoint
from ..data import Split
from ..explore import Explorer, Server
from .app import Binarization, Data, DataDir, Device, Folder, Seed, app, user_errors
from .inputs import SplitName, open_run


@app.command()
@user_errors
def explore(
    folder: Folder = checkpoint.MNIST,
    data_name: Data = None,
    data_dir: DataDir = None,
    binarization: Binarization = None,
    split: SplitName = "test",
    host: Annotated[
        str, typer.Option(help="Address to listen on; beyond this machine (0.0.0.0: all) a token is asked for")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any that is free")] = 8484,
    token: Annotated[
        bool, typer.Option("--token", help="Ask for a token on this machine too, where others are logged in")
    ] = False,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser")] = False,
    backend: Annotated[
        str, typer.Option(help="auto or a name in the table of `info`; a named backend runs or raises")
    ] = "auto",
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """A page in the browser: move the code, fix pixels, encode images."""
    with Server(host, port, secrets.token_urlsafe(18) if token else None) as server:
        found, images = open_run(folder, device, data_name, data_dir, binarization)
        name = "The MNIST model that ships with vlae_fast" if folder == checkpoint.MNIST else str(folder)
        explorer = Explorer(found.model, images, split=cast(Split, split), name=name, backend=backend, seed=seed)
        if not server.loopback:
            typer.echo("note: the connection is not encrypted; who has the token may ask", err=True)
        typer.echo(f"{server.url}  (Ctrl-C ends it)")
        if open_browser:
            webbrowser.open(server.url)
        server.serve(explorer)
        typer.echo("ended")
